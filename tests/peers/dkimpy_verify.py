"""Verifies every DKIM signature of messages with dkimpy: FILE of `name text` lines for DNS, then the messages.

Prints one line for each message: its file, how many signatures it has, and how many of them hold.
"""

import sys

import dkim


def main(records, *paths):
    with open(records) as lines:
        zone = dict(line.rstrip("\n").split(" ", 1) for line in lines)

    def answer(name, timeout=5):
        return zone.get(name.decode().rstrip("."), "").encode() or None

    for path in paths:
        with open(path, "rb") as file:
            text = file.read()
        count = sum(name.lower() == b"dkim-signature" for name, _ in dkim.rfc822_parse(text)[0])
        good = 0
        for index in range(count):
            try:
                good += dkim.DKIM(text, minkey=1024).verify(idx=index, dnsfunc=answer)
            except dkim.DKIMException as error:
                print(f"{path}: {error}", file=sys.stderr)
        print(path, count, good)


main(*sys.argv[1:])
