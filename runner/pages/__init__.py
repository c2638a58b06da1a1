"""The pages that show jobs: served over HTTP, and as a report in one file."""
