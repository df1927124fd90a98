//! An asynchronous atProtocol client: directory look-up, TLS, onboarding, data, notifications.
