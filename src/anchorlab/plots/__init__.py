"""Pictures and pages: what is drawn for people; nothing here trains or decides."""
