"""``python -m tests.conformance.curl``: the documents' command lines on libcurl, where there is no
curl command. It knows the options that the documents use, and writes what the tests read: the
files ``headers`` and ``body``.
"""

import sys
from argparse import ArgumentParser

import pycurl


def form_field(text: str) -> tuple[str, tuple[int, str]]:
    """``name=value``, or ``name=@file``."""
    name, _, value = text.partition("=")
    if value.startswith("@"):
        return name, (pycurl.FORM_FILE, value[1:])
    return name, (pycurl.FORM_CONTENTS, value)


def main() -> None:
    options = ArgumentParser(prog="curl")
    options.add_argument("url")
    options.add_argument("-X", dest="method")
    options.add_argument("-H", dest="headers", action="append", default=[])
    options.add_argument("-F", dest="form", action="append", default=[], type=form_field)
    # -N: what comes is not held back. Here it is only read when all of it is there.
    options.add_argument("-N", action="store_true")
    asked = options.parse_args()
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, asked.url)
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.HTTPHEADER, asked.headers)
    if asked.form:
        curl.setopt(pycurl.HTTPPOST, asked.form)
    if asked.method:
        curl.setopt(pycurl.CUSTOMREQUEST, asked.method)
    with open("headers", "wb") as headers, open("body", "wb") as body:
        curl.setopt(pycurl.WRITEHEADER, headers)
        curl.setopt(pycurl.WRITEDATA, body)
        try:
            curl.perform()
        except pycurl.error as error:
            sys.exit(f"curl: {error}")


if __name__ == "__main__":
    main()
