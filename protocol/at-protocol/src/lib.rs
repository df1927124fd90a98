//! The atProtocol as pure code: names, verbs, responses, sessions and cryptography, without IO.
