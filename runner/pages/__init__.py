"""Pages for people who would rather look: a server's, and a report in one file."""
