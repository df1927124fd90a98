//! The operator's tool: onboard, put, get, notify, watch, command, a private town and a demo.
