"""Exchanges the relay's certificate with a session open: certificate_client.py PORT PID OPENSSL CERTIFICATE KEY."""

import os
import signal
import smtplib
import ssl
import subprocess
import sys
import time

PORT, PID = int(sys.argv[1]), int(sys.argv[2])
OPENSSL, CERTIFICATE, KEY = sys.argv[3:6]


def session():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    smtp = smtplib.SMTP("127.0.0.1", PORT, local_hostname="client.example.com", timeout=20)
    smtp.starttls(context=context)
    return smtp, smtp.sock.getpeercert(binary_form=True)


def send(smtp, number):
    smtp.sendmail("a@example.com", "b@example.org", f"Subject: {number}\r\n\r\nx\r\n")


old_session, old = session()
subprocess.run(
    [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=new.example.com"]
    + ["-out", CERTIFICATE, "-keyout", KEY],
    check=True,
    capture_output=True,
)
os.kill(PID, signal.SIGHUP)
until = time.monotonic() + 30
while True:
    new_session, new = session()
    if new != old:
        break
    assert time.monotonic() < until, "the old certificate is still shown"
    new_session.quit()
    time.sleep(0.1)
old_session.noop()
send(old_session, 1)
send(new_session, 2)
old_session.quit()
new_session.quit()
