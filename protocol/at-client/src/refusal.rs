//! What a server's error codes mean to a client.

use at_protocol::response::{ErrorCode, RemoteError};

/// Whether the same request may succeed later without anybody changing anything: the server is busy, or
/// does not reach another one. Codes that we do not know are taken for final.
pub(crate) fn is_transient(error: &RemoteError) -> bool {
    match error.code() {
        Some(
            ErrorCode::ServerException
            | ErrorCode::DataStore
            | ErrorCode::Socket
            | ErrorCode::OutboundLimit
            | ErrorCode::Handshake
            | ErrorCode::InternalError
            | ErrorCode::InternalException
            | ErrorCode::InboundLimit
            | ErrorCode::UnableToConnect
            | ErrorCode::Timeout
            | ErrorCode::Paused
            | ErrorCode::EnrollmentPending
            // The connection was not, or is no longer, authenticated: the next one will be.
            | ErrorCode::NotAuthenticated,
        ) => true,
        Some(
            ErrorCode::InvalidSyntax
            | ErrorCode::BufferLimit
            | ErrorCode::SecondaryNotFound
            | ErrorCode::Unauthorized
            | ErrorCode::Blocked
            | ErrorCode::KeyNotFound
            | ErrorCode::InvalidKey
            | ErrorCode::IllegalArguments
            | ErrorCode::EnrollmentDenied
            | ErrorCode::EnrollmentRevoked
            | ErrorCode::EnrollmentExpired
            | ErrorCode::SelfRevocation,
        )
        | None => false,
    }
}
