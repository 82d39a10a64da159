"""Writes to lists and asks about them with smtplib: lists_client.py PORT SENDER RECIPIENT...

Prints what VRFY, EXPN and RCPT are answered, a line each; sends one message to all recipients that are taken.
"""

import smtplib
import sys

port, sender, *recipients = sys.argv[1:]
with smtplib.SMTP("127.0.0.1", int(port), local_hostname="python.example.com", timeout=30) as smtp:
    smtp.ehlo()
    print("expn offered", smtp.has_extn("expn"))
    print("etrn offered", smtp.has_extn("etrn"))
    for recipient in recipients:
        for answer in (smtp.verify(recipient), smtp.expn(recipient)):
            print(answer[0], answer[1].decode().replace("\n", " "))
    assert smtp.mail(sender)[0] == 250
    for recipient in recipients:
        code, text = smtp.rcpt(recipient)
        print("rcpt", code, text.decode())
    code, text = smtp.data(b"From: a@example.com\r\nSubject: to the list\r\n\r\nhello\r\n")
    assert code == 250, text
