"""Sphinx configuration; 'make docs' builds with warnings as errors."""

import volsvc

project = "volsvc"
copyright = "the volsvc authors"
release = version = volsvc.__version__
extensions: list[str] = []
root_doc = "index"
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px", "sidebar_width": "240px", "description": "block storage, standalone"}
html_show_sourcelink = False
html_show_copyright = False
nitpicky = True
