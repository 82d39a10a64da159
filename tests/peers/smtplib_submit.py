"""Submits two messages as alice: smtplib_submit.py STARTTLS_PORT TLS_PORT PASSWORD."""

import smtplib
import ssl
import sys

STARTTLS, TLS, PASSWORD = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def submit(smtp, subject):
    try:
        smtp.login("alice", "not " + PASSWORD)
        raise AssertionError("a wrong password was taken")
    except smtplib.SMTPAuthenticationError as error:
        assert error.smtp_code == 535, error
    smtp.login("alice", PASSWORD)
    text = f"From: alice@example.com\r\nSubject: {subject}\r\n\r\ntext\r\n"
    assert not smtp.sendmail("alice@example.com", ["to@example.org"], text)
    try:
        smtp.sendmail("eve@example.com", ["to@example.org"], text)
        raise AssertionError("another's sender was taken")
    except smtplib.SMTPSenderRefused as error:
        assert error.smtp_code == 550, error
    smtp.quit()


smtp = smtplib.SMTP("127.0.0.1", STARTTLS, local_hostname="smtplib.example.com", timeout=60)
smtp.ehlo()
assert not smtp.has_extn("auth"), "AUTH is not for all to hear"
smtp.starttls(context=context)
submit(smtp, "smtplib starttls")
submit(smtplib.SMTP_SSL("127.0.0.1", TLS, local_hostname="smtplib.example.com", timeout=60, context=context), "smtplib tls")
