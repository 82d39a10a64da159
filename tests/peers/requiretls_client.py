"""Sends a message with REQUIRETLS to each domain: requiretls_client.py PORT DOMAIN..."""

import smtplib
import ssl
import sys

port, *domains = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with smtplib.SMTP("127.0.0.1", int(port), local_hostname="requiretls.example.com", timeout=60) as smtp:
    smtp.starttls(context=context)
    for domain in domains:
        smtp.ehlo_or_helo_if_needed()
        assert smtp.has_extn("requiretls")
        text = f"From: a@source.test\r\nSubject: {domain}\r\n\r\ntext\r\n"
        assert not smtp.sendmail("a@source.test", [f"b@{domain}"], text, mail_options=["REQUIRETLS"])
