"""Options of the REST API, from [DEFAULT], and those of its policy, from [oslo_policy].

Names and defaults are Cinder's where Cinder has the option; ``auth_strategy`` and
``osapi_volume_listen`` have the defaults that make the embedded service.
"""

from __future__ import annotations

from oslo_config import cfg

POLICY_GROUP = "oslo_policy"

OPTS = [
    cfg.HostAddressOpt(
        "osapi_volume_listen",
        default="127.0.0.1",
        help="Address on which the API listens for TCP connections. With auth_strategy = noauth only a loopback "
        "address is accepted. A reload applies it.",
    ),
    cfg.PortOpt(
        "osapi_volume_listen_port",
        default=8776,
        help="Port on which the API listens. 0 takes a free one, which the log names. A reload applies it.",
    ),
    cfg.StrOpt(
        "osapi_volume_listen_unix",
        help="Path of a unix socket on which the API listens instead of TCP; its directory must exist, and the path "
        "has at most 107 bytes. A reload applies it.",
    ),
    cfg.StrOpt(
        "osapi_volume_listen_unix_mode",
        default="0600",
        regex=r"^0?[0-7]{3}$",
        help="Permissions of that socket, octal. Under noauth whoever can connect is an admin. A reload applies it.",
    ),
    cfg.IntOpt(
        "api_threads",
        default=32,
        min=1,
        max=1024,
        help="Requests that are answered at a time, each in a thread. A request that waits for a daemon (attach, "
        "detach, reset) holds its thread until the answer; seven eighths of the threads may wait so, and others are "
        "refused with 503 until one is answered. A reload applies it.",
    ),
    cfg.IntOpt(
        "api_request_timeout",
        default=30,
        min=1,
        help="Seconds that a client may leave its connection silent, between two requests or within one. "
        "A reload applies it.",
    ),
    cfg.IntOpt(
        "osapi_max_limit",
        default=1000,
        min=1,
        help="Most items that one answer of a list holds; the rest is behind its 'next' link. A reload applies it.",
    ),
    cfg.IntOpt(
        "osapi_max_request_body_size",
        default=114688,
        min=1024,
        help="Largest request body in bytes; a larger one is answered with 413. A reload applies it.",
    ),
    cfg.URIOpt(
        "public_endpoint",
        schemes=["http", "https"],
        help="URL that links in answers begin with, for an API behind a proxy. Without it they begin with the address "
        "the client asked. A reload applies it.",
    ),
    cfg.StrOpt(
        "auth_strategy",
        default="noauth",
        choices=[
            ("noauth", "whoever can connect is an admin; only on loopback or a unix socket"),
            ("http_basic", "users and bcrypt passwords from http_basic_auth_user_file"),
            ("keystone", "not available yet; refused at the start"),
        ],
        help="How requests are authenticated. A reload applies it.",
    ),
    cfg.StrOpt(
        "http_basic_auth_user_file",
        default="/etc/volsvc/htpasswd",
        help="File with lines USER:HASH (htpasswd -nbB USER PASSWORD writes one; bcrypt only), for auth_strategy = "
        "http_basic. It is read again when it changes. A reload applies it.",
    ),
    cfg.ListOpt(
        "http_basic_admin_users",
        default=["admin"],
        help="Users of that file who are admins and may name any project. The others work in the project that has "
        "their name. A reload applies it.",
    ),
]

POLICY_OPTS = [
    cfg.StrOpt(
        "policy_file",
        default="policy.yaml",
        help="File with rules that differ from the built-in ones, beside the configuration file unless the path is "
        "absolute; it may be missing. It is read again when it changes. A reload applies it.",
    ),
]
