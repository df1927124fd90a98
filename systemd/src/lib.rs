//! What every daemon owes its service manager: configuration, logging, certificates, signals, readiness.
