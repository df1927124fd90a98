//! `batch`: several commands in one, in their order (atProtocol wire reference §4.26).
//!
//! Each command is decided and performed as if it had come alone; one that fails stops no other. What
//! changes the connection itself, or waits, has no place in it.

use std::pin::Pin;

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Batch, Command};
use at_protocol::{ErrorCode, Verb};
use serde::Serialize;

use super::{Answered, Effect, MAX_ANSWER, Request, dispatch, json};

/// The answer to one command.
#[derive(Serialize)]
struct Answer {
    id: i64,
    response: Outcome,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Data {
        data: String,
    },
    /// Only the published text of the code is told.
    Error {
        error_code: &'static str,
        error_message: &'static str,
    },
}

pub(super) async fn perform(request: &Request<'_>, batch: Batch) -> Answered {
    let most = request.node.config.limits.node.batch;
    if batch.commands.len() > most {
        let message = format!("a batch has at most {most} commands");
        return Err(Failure::new(ErrorCode::IllegalArguments, message));
    }
    let mut answers = String::from("[");
    for Command { id, command } in batch.commands {
        let response = outcome(request, &command).await;
        let mut answer = json(&Answer { id, response });
        if answers.len() + answer.len() > MAX_ANSWER {
            answer = json(&Answer { id, response: ErrorCode::BufferLimit.into() });
        }
        answers.push_str(if answers.len() > 1 { "," } else { "" });
        answers.push_str(&answer);
    }
    answers.push(']');
    Ok(Response::Data(answers))
}

/// On the heap, since performing a command is part of performing a batch.
fn outcome<'a>(
    request: &'a Request<'_>,
    command: &'a str,
) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
    Box::pin(async move {
        let verb = match command.parse::<Verb>() {
            Ok(verb) if is_batched(&verb) => verb,
            Ok(_) | Err(_) => return ErrorCode::InvalidSyntax.into(),
        };
        match dispatch(request, verb).await {
            Ok(Effect::Answer(response)) => response.into(),
            // No verb that is batched does more than answer.
            Ok(_) => ErrorCode::InternalError.into(),
            Err(failure) => failure.code.into(),
        }
    })
}

/// Whether a verb answers at once and leaves the connection as it is.
fn is_batched(verb: &Verb) -> bool {
    match verb {
        Verb::Scan(_)
        | Verb::Update(_)
        | Verb::Delete(_)
        | Verb::LLookup(_)
        | Verb::Lookup(_)
        | Verb::PLookup(_)
        | Verb::Notify(_)
        | Verb::NotifyAll(_)
        | Verb::NotifyList(_)
        | Verb::NotifyStatus(_)
        | Verb::NotifyFetch(_)
        | Verb::NotifyRemove(_)
        | Verb::Info(_)
        | Verb::Stats(_)
        | Verb::Sync(_)
        | Verb::Otp(_)
        | Verb::Keys(_)
        | Verb::Config(_) => true,
        Verb::From(_)
        | Verb::To(_)
        | Verb::Cram(_)
        | Verb::Pkam(_)
        | Verb::Pol
        | Verb::Noop(_)
        | Verb::Monitor(_)
        | Verb::Enroll(_)
        | Verb::Batch(_)
        | Verb::Stream(_) => false,
    }
}

impl From<Response> for Outcome {
    fn from(response: Response) -> Self {
        match response {
            Response::Data(data) | Response::SpacedData(data) => Self::Data { data },
            Response::Silence => Self::Data { data: String::new() },
            Response::Error(failure) => failure.code.into(),
            Response::State(code, _) => code.into(),
        }
    }
}

impl From<ErrorCode> for Outcome {
    fn from(code: ErrorCode) -> Self {
        Self::Error { error_code: code.name(), error_message: code.text() }
    }
}
