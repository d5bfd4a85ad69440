//! What the formats of messages share: questions about conversations become users.

use std::collections::HashMap;

use chat::{Draw, History, Interaction, Message, Role};
use configs::synth::MessageUsers;

use super::rows::{REPLY, RESPONSE_SELECTION};
use super::{Collector, ImportError, Options};

/// A question about a conversation, answered by the user's choice.
pub(super) struct Question {
    /// Id of the question, which differs from those of all others.
    pub(super) id: String,
    /// Id of the user who asks.
    pub(super) user: String,
    /// The messages that precede the question.
    pub(super) messages: Vec<Message>,
    /// The question and its answers.
    pub(super) target: Interaction,
}

/// Gathers questions into users.
pub(super) struct Conversations {
    users: MessageUsers,
    known: HashMap<String, usize>,
    histories: Vec<History>,
}

impl Conversations {
    pub(super) fn new(options: &Options) -> Self {
        Self { users: options.message_users, known: HashMap::new(), histories: Vec::new() }
    }

    /// Adds a question. Its messages follow those of the user's earlier questions, unless they are there already.
    pub(super) fn add(&mut self, question: Question, collector: &mut Collector<'_>) -> Result<(), ImportError> {
        let Question { id, user, messages, target } = question;
        let messages = without_system(messages, collector);
        if self.users == MessageUsers::Question {
            return collector.history(History { uid: id, messages, targets: vec![target], ..History::default() });
        }
        let index = *self.known.entry(user).or_insert_with_key(|user| {
            self.histories.push(History { uid: user.clone(), ..History::default() });
            self.histories.len() - 1
        });
        let history = &mut self.histories[index];
        let repeated = messages.is_empty() || history.messages.windows(messages.len()).any(|window| window == messages);
        if !repeated {
            history.messages.extend(messages);
        }
        if history.targets.contains(&target) {
            collector.dropped("repeated questions", 1);
        } else {
            history.targets.push(target);
        }
        Ok(())
    }

    /// Writes the users whose questions were gathered, in the order of their first question.
    pub(super) fn finish(self, collector: &mut Collector<'_>) -> Result<(), ImportError> {
        self.histories.into_iter().try_for_each(|history| collector.history(history))
    }
}

/// Drops system messages: in these sets they describe the persona, which a summary has to find out.
fn without_system(mut messages: Vec<Message>, collector: &mut Collector<'_>) -> Vec<Message> {
    let count = messages.len();
    messages.retain(|message| message.role != Role::System);
    collector.dropped("system messages, which describe the persona", (count - messages.len()) as u64);
    messages
}

/// Returns the choice of `chosen` over one of `others`, drawn by the id of the question; `None` if there are no others.
pub(super) fn target(
    query: String,
    chosen: String,
    mut others: Vec<String>,
    id: &str,
    seed: u64,
) -> Option<Interaction> {
    if others.is_empty() {
        return None;
    }
    let drawn = Draw::new(seed).text("rejected answer").text(id).below(others.len());
    Some(answer(query, chosen, others.swap_remove(drawn)))
}

/// Returns the choice of an answer over another one.
pub(super) fn answer(query: String, chosen: String, rejected: String) -> Interaction {
    Interaction {
        query: Some(query),
        chosen,
        rejected: Some(rejected),
        domain: Some(REPLY.into()),
        task: Some(RESPONSE_SELECTION.into()),
    }
}
