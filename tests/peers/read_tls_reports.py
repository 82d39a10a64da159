"""Reads TLS reports with dkimpy, Python's email package and parsedmarc: read_tls_reports.py RECORDS NOW FILE...

RECORDS has `name text` lines for DNS, NOW is the moment at which signatures are looked at, in seconds. A FILE that ends in .eml is a letter,
another one the packed document itself. Prints a line of JSON for each.
"""

import email
import email.policy
import gzip
import json
import sys

import dkim
import parsedmarc

records, now, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
dkim.time.time = lambda: now
with open(records) as lines:
    zone = dict(line.rstrip("\n").split(" ", 1) for line in lines)


def answer(name, timeout=5):
    return zone.get(name.decode().rstrip("."), "").encode() or None


def read(path):
    with open(path, "rb") as file:
        text = file.read()
    if not path.endswith(".eml"):
        return {"packed": text}
    signatures = [value for name, value in dkim.rfc822_parse(text)[0] if name.lower() == b"dkim-signature"]
    # As a report: the key's record has to be one for reports, and no signature may leave a part of the body out.
    held = sum(dkim.DKIM(text, tlsrpt="strict").verify(idx=at, dnsfunc=answer) for at in range(len(signatures)))
    letter = email.message_from_bytes(text, policy=email.policy.SMTP)
    people, machine = letter.iter_parts()
    return {
        "packed": machine.get_content(),
        "signatures": len(signatures),
        "held": held,
        "limited": any(b"l=" in tag for value in signatures for tag in value.split(b";") if tag.strip().startswith(b"l=")),
        "signed": b"".join(b"".join(value.split()) for value in signatures).lower().decode(),
        "type": letter.get_content_type(),
        "report_type": letter.get_param("report-type"),
        "headers": {name: letter[name] for name in letter.keys() if name != "Received"},
        "parts": [people.get_content_type(), machine.get_content_type()],
        "file": machine.get_filename(),
        "defects": [str(defect) for part in (letter, people, machine) for defect in part.defects],
        "mail": parsedmarc.parse_report_email(text, offline=True)["report_type"],
    }


for path in paths:
    facts = read(path)
    document = gzip.decompress(facts.pop("packed"))
    facts["document"] = json.loads(document)
    facts["report"] = parsedmarc.parse_smtp_tls_report_json(document)
    print(json.dumps(facts))
