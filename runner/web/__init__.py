"""What the service and the pages have in common as servers: who may speak to them, and how they refuse."""
