"""What any store must do, by subject; ``volsvc.testing.store_contract`` puts it together."""
