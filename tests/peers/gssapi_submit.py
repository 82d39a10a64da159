"""Submits by GSSAPI and GSS-SPNEGO with the ticket of KRB5CCNAME: gssapi_submit.py TLS_PORT.

The tokens are MIT's, by way of python-gssapi. What must fail is tried too: a binding to another certificate, a wish to be somebody else,
tokens that are cut or come twice, and an answer where nothing is left to say.
"""

import base64
import hashlib
import smtplib
import ssl
import sys

import gssapi

PORT = int(sys.argv[1])
SPNEGO = gssapi.OID.from_int_seq("1.3.6.1.5.5.2")
KRB5 = gssapi.MechType.kerberos
SERVICE = gssapi.Name("smtp@localhost", gssapi.NameType.hostbased_service)

context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def connect():
    smtp = smtplib.SMTP_SSL("127.0.0.1", PORT, local_hostname="gssapi.example.com", timeout=60, context=context)
    smtp.ehlo()
    offered = smtp.esmtp_features["auth"].split()
    assert "GSSAPI" in offered and "GSS-SPNEGO" in offered and "NTLM" not in offered, offered
    return smtp


def bindings(certificate):
    digest = hashlib.sha256(certificate).digest()
    return gssapi.raw.ChannelBindings(application_data=b"tls-server-end-point:" + digest)


def say(smtp, token):
    code, text = smtp.docmd(base64.b64encode(token).decode())
    return code, base64.b64decode(text) if code == 334 else text


def begin(smtp, name, mechanism, flags, binding):
    client = gssapi.SecurityContext(name=SERVICE, mech=mechanism, flags=flags, usage="initiate", channel_bindings=binding)
    token = client.step()
    code, text = smtp.docmd(f"AUTH {name} {base64.b64encode(token).decode()}")
    return client, token, code, base64.b64decode(text) if code == 334 else text


def spnego(smtp, binding=None, mutual=True):
    flags = [gssapi.RequirementFlag.mutual_authentication] if mutual else []
    client, _, code, answer = begin(smtp, "GSS-SPNEGO", SPNEGO, flags, binding)
    while code == 334:
        token = None if client.complete else client.step(answer)
        code, answer = say(smtp, token or b"")
    return code


def kerberos(smtp, binding=None, mutual=True, authorize=b"", layer=1, early=False):
    flags = [gssapi.RequirementFlag.mutual_authentication] if mutual else []
    client, _, code, answer = begin(smtp, "GSSAPI", KRB5, flags, binding)
    while code == 334 and not client.complete:
        token = client.step(answer)
        code, answer = say(smtp, b"x" if early else token or b"")
    if code != 334:
        return code
    offer = client.unwrap(answer).message
    assert offer == b"\1\0\0\0", offer
    return say(smtp, client.wrap(bytes([layer, 0, 0, 0]) + authorize, False).message)[0]


def submit(smtp, subject):
    text = f"From: alice@example.com\r\nSubject: {subject}\r\n\r\ntext\r\n"
    assert not smtp.sendmail("alice@example.com", ["to@example.org"], text)
    try:
        smtp.sendmail("eve@example.com", ["to@example.org"], text)
        raise AssertionError("another's sender was taken")
    except smtplib.SMTPSenderRefused as error:
        assert error.smtp_code == 550, error
    smtp.quit()


smtp = connect()
certificate = smtp.sock.getpeercert(binary_form=True)
assert spnego(smtp, bindings(b"another certificate")) == 535
assert kerberos(smtp, bindings(b"another certificate")) == 535
assert kerberos(smtp, authorize=b"bob") == 535, "somebody else"
smtp.close()

smtp = connect()
assert kerberos(smtp, layer=2) == 501, "a layer that was not offered"
assert kerberos(smtp, early=True) == 501, "words in place of nothing"
assert smtp.docmd("AUTH GSSAPI YIIC")[0] == 535, "half a token"
assert smtp.docmd("AUTH GSS-SPNEGO", "TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAGAbEdAAAADw==")[0] == 535, "NTLM inside"
client, token, code, _ = begin(smtp, "GSSAPI", KRB5, [], None)
assert code == 334 and smtp.docmd("*")[0] == 501, "given up"
assert smtp.docmd(f"AUTH GSSAPI {base64.b64encode(token).decode()}")[0] == 535, "the same twice"
smtp.close()

for mechanism, authenticate in (("GSSAPI", kerberos), ("GSS-SPNEGO", spnego)):
    for bound in (False, True):
        for mutual in (False, True):
            smtp = connect()
            assert authenticate(smtp, bindings(certificate) if bound else None, mutual) == 235, (mechanism, bound, mutual)
            submit(smtp, f"{mechanism} bound={bound} mutual={mutual}")
smtp = connect()
assert kerberos(smtp, authorize=b"alice") == 235
smtp.quit()
