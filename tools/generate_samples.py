"""Write etc/cinder.conf.sample and etc/policy.yaml.sample from what the code declares.

The files are kept in the tree, so that they can be read without installing anything; a test
compares them with what this program writes.  oslo's own generators do the work, so that an
operator who runs them gets the same text.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
import sys
from collections.abc import Sequence

NAMESPACE = "volsvc"
ROOT = pathlib.Path(__file__).resolve().parent.parent

CONF_HEADER = """\
# Every option of volsvc, each with its default, commented out.
#
# Copy what you change to /etc/volsvc/cinder.conf or ~/.volsvc/cinder.conf; no file at all is a
# working configuration.  A backend's options stand in the group that enabled_backends names;
# [backend_defaults] gives what a backend's own group doesn't set.
#
# Logging and messaging have options of their libraries besides.  To see them too:
#   oslo-config-generator --namespace volsvc --namespace oslo.log --namespace oslo.messaging
#
# Written by 'make samples'; don't edit.

"""

POLICY_HEADER = """\
# Every policy rule of volsvc with its default, commented out.
#
# Copy the rules you change to policy.yaml beside cinder.conf.  It is read again when it changes.
#
# Written by 'make samples'; don't edit.

"""


def make_conf_sample() -> str:
    """The text of cinder.conf.sample."""
    from oslo_config import cfg, generator

    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(["--namespace", NAMESPACE, "--wrap-width", "96"], project="oslo-config-generator", default_config_files=[])
    out = io.StringIO()
    generator.generate(conf, out)
    return CONF_HEADER + _tidy(out.getvalue())


def make_policy_sample() -> str:
    """The text of policy.yaml.sample."""
    from oslo_config import cfg
    from oslo_policy import generator

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        generator.generate_sample(args=["--namespace", NAMESPACE], conf=cfg.ConfigOpts())
    return POLICY_HEADER + _tidy(out.getvalue())


SAMPLES = {"cinder.conf.sample": make_conf_sample, "policy.yaml.sample": make_policy_sample}


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "etc", metavar="DIR", help="default: etc")
    directory = parser.parse_args(argv).output
    directory.mkdir(parents=True, exist_ok=True)
    for name, make in SAMPLES.items():
        (directory / name).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
