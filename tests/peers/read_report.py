"""Reads a delivery status report with Python's email package and prints what it says as JSON: read_report.py FILE"""

import email
import email.policy
import json
import sys

with open(sys.argv[1], "rb") as file:
    report = email.message_from_binary_file(file, policy=email.policy.SMTP)
parts = list(report.iter_parts())
status = parts[1].get_payload()
json.dump(
    {
        "type": report.get_content_type(),
        "report_type": report.get_param("report-type"),
        "to": report["To"],
        "headers": [name for name in ("From", "Date", "Message-ID", "Subject", "Auto-Submitted") if report[name]],
        "auto_submitted": report["Auto-Submitted"],
        "defects": [str(defect) for part in [report, *parts] for defect in part.defects],
        "parts": [part.get_content_type() for part in parts],
        "text": parts[0].get_content(),
        "message": dict(status[0]),
        "recipients": [dict(block) for block in status[1:]],
        "original": parts[2].as_string(),
    },
    sys.stdout,
)
