"""HTTP code that the service and the pages share: access control, errors and sockets."""
