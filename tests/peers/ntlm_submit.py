"""Submits by NTLM as carol: ntlm_submit.py TLS_PORT PASSWORD.

The messages are pyspnego's, with a code over all three of them and a binding to the server's certificate. What must fail is tried too.
"""

import base64
import hashlib
import smtplib
import ssl
import sys

import spnego
from spnego.channel_bindings import GssChannelBindings

PORT, PASSWORD = int(sys.argv[1]), sys.argv[2]

context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def connect():
    smtp = smtplib.SMTP_SSL("127.0.0.1", PORT, local_hostname="spnego.example.com", timeout=60, context=context)
    smtp.ehlo()
    assert "NTLM" in smtp.esmtp_features["auth"].split(), smtp.esmtp_features
    return smtp


def binding(certificate):
    digest = hashlib.sha256(certificate).digest()
    return GssChannelBindings(application_data=b"tls-server-end-point:" + digest)


def authenticate(smtp, user="carol", password=PASSWORD, channel=None, change=None, initial=True):
    client = spnego.client(user, password, hostname="localhost", service="smtp", protocol="ntlm", channel_bindings=channel)
    first = base64.b64encode(client.step()).decode()
    if initial:
        code, challenge = smtp.docmd(f"AUTH NTLM {first}")
    else:
        code, challenge = smtp.docmd("AUTH NTLM")
        assert (code, challenge) == (334, b""), challenge
        code, challenge = smtp.docmd(first)
    assert code == 334, challenge
    last = bytearray(client.step(base64.b64decode(challenge)))
    if change is not None:
        last[change(last)] ^= 1
    return smtp.docmd(base64.b64encode(last).decode())[0]


smtp = connect()
certificate = smtp.sock.getpeercert(binary_form=True)
assert authenticate(smtp, password="not " + PASSWORD) == 535
assert authenticate(smtp, user="nobody") == 535
assert authenticate(smtp, user="alice") == 535, "there is no NT hash"
smtp.close()
smtp = connect()
assert authenticate(smtp, channel=binding(b"another certificate")) == 535
assert authenticate(smtp, change=lambda last: 75) == 535, "the code over the messages"
assert authenticate(smtp, change=lambda last: last.index(b"\1\1" + bytes(6)) - 1) == 535, "the proof"
assert smtp.docmd("AUTH NTLM TlRMTVNTUAABAAAA")[0] == 501, "half a message"
smtp.close()

for user, channel, initial in (
    ("carol", None, True),
    ("EXAMPLE\\carol", binding(certificate), True),
    ("carol", binding(certificate), False),
):
    smtp = connect()
    assert authenticate(smtp, user=user, channel=channel, initial=initial) == 235, user
    text = f"From: carol@example.com\r\nSubject: pyspnego {user} {initial}\r\n\r\ntext\r\n"
    assert not smtp.sendmail("carol@example.com", ["to@example.org"], text)
    smtp.quit()
