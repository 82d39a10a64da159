"""Submits by SCRAM-SHA-256-PLUS as alice, bound to the server's certificate: scram_plus.py TLS_PORT PASSWORD.

The mechanism is scramp's. What must fail is tried too: a binding to another certificate, and a client that can bind and says that it saw
no offer to.
"""

import base64
import smtplib
import ssl
import sys

from scramp import ScramClient

PORT, PASSWORD = int(sys.argv[1]), sys.argv[2]
PLUS = "SCRAM-SHA-256-PLUS"

context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def connect():
    smtp = smtplib.SMTP_SSL("127.0.0.1", PORT, local_hostname="scramp.example.com", timeout=60, context=context)
    smtp.ehlo()
    assert smtp.sock.version() == "TLSv1.3", smtp.sock.version()
    assert smtp.esmtp_features["auth"].split()[:2] == [PLUS, "SCRAM-SHA-256"], smtp.esmtp_features
    return smtp


def say(smtp, text):
    return smtp.docmd(base64.b64encode(text.encode()).decode())


def authenticate(smtp, binding):
    client = ScramClient([PLUS, "SCRAM-SHA-256"], "alice", PASSWORD, channel_binding=binding)
    first = base64.b64encode(client.get_client_first().encode()).decode()
    code, challenge = smtp.docmd(f"AUTH {client.mechanism_name} {first}")
    if code != 334:
        return code
    client.set_server_first(base64.b64decode(challenge).decode())
    code, challenge = say(smtp, client.get_client_final())
    if code != 334:
        return code
    client.set_server_final(base64.b64decode(challenge).decode())
    return smtp.docmd("")[0]


smtp = connect()
assert authenticate(smtp, ("tls-server-end-point", b"\0" * 32)) == 535, "another's certificate"
assert authenticate(smtp, ("tls-unique", b"\0" * 12)) == 535, "a binding that the session has not"
first = base64.b64encode(b"y,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL").decode()
assert smtp.docmd(f"AUTH SCRAM-SHA-256 {first}")[0] == 535, "the offer was made"
assert authenticate(smtp, ("tls-server-end-point", smtp.sock)) == 235
text = "From: alice@example.com\r\nSubject: scramp\r\n\r\ntext\r\n"
assert not smtp.sendmail("alice@example.com", ["to@example.org"], text)
smtp.quit()
