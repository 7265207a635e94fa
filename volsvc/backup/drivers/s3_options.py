"""Options of the S3 backup driver, with Cinder's names."""

from __future__ import annotations

from oslo_config import cfg

OPTS = [
    cfg.StrOpt(
        "backup_s3_endpoint_url",
        help="URL of the S3 server, as https://host:port; unset means AWS in backup_s3_region. A reload applies it.",
    ),
    cfg.StrOpt("backup_s3_store_access_key", secret=True, help="The access key. A reload applies it."),
    cfg.StrOpt("backup_s3_store_secret_key", secret=True, help="The secret key. A reload applies it."),
    cfg.StrOpt(
        "backup_s3_store_bucket",
        default="volumebackups",
        help="The bucket; it must exist and be used for nothing else. A reload applies it.",
    ),
    cfg.StrOpt(
        "backup_s3_region",
        default="us-east-1",
        help="Region that requests are signed for; most servers other than AWS take any. A reload applies it.",
    ),
    cfg.StrOpt(
        "backup_s3_addressing_style",
        default="path",
        choices=["path", "virtual"],
        help="'path' asks for https://host/bucket/object, 'virtual' for https://bucket.host/object. "
        "A reload applies it.",
    ),
    cfg.FloatOpt(
        "backup_s3_timeout",
        default=60,
        min=0.1,
        help="Seconds that one request may take, up to 32 MiB of data included; connecting may take 10 of them. "
        "A reload applies it.",
    ),
    cfg.IntOpt(
        "backup_s3_retry_max_attempts",
        default=4,
        min=0,
        help="How often a request is tried again after an error of the server or the connection, 0 = never. "
        "A reload applies it.",
    ),
    cfg.StrOpt("backup_s3_http_proxy", default="", help="Proxy for http endpoints. A reload applies it."),
    cfg.StrOpt("backup_s3_https_proxy", default="", help="Proxy for https endpoints. A reload applies it."),
    cfg.BoolOpt("backup_s3_verify_ssl", default=True, help="Check the server's certificate. A reload applies it."),
    cfg.StrOpt(
        "backup_s3_ca_cert_file",
        help="File with further certificates to trust, PEM; the system's remain trusted. A reload applies it.",
    ),
    cfg.StrOpt(
        "backup_s3_sse_customer_key",
        secret=True,
        help="Key of 32 characters with which the server encrypts what it stores (SSE-C, AES256). "
        "A reload applies it; objects stored under another key can't be read any more.",
    ),
]
