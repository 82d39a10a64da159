"""Sends every *.eml of a directory over one connection: smtplib_send.py PORT DIR SENDER RECIPIENT..."""

import pathlib
import smtplib
import sys

port, directory, sender, *recipients = sys.argv[1:]
with smtplib.SMTP("127.0.0.1", int(port), local_hostname="python.example.com", timeout=20) as smtp:
    for path in sorted(pathlib.Path(directory).glob("*.eml")):
        text = path.read_bytes()
        smtp.ehlo_or_helo_if_needed()
        # SIZE is said by smtplib itself.
        options = [] if text.isascii() else ["BODY=8BITMIME"]
        refused = smtp.sendmail(sender, recipients, text, mail_options=options)
        assert not refused, refused
