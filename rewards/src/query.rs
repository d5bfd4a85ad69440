//! What a judge is asked.

use chat::{Interaction, Message, Question};
use serde::{Deserialize, Serialize};

use crate::judge::question;

/// A query to a judge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JudgeQuery {
    /// Which of two items would the user choose? Asked in the judge's wording, mode and item orders. The verdict is the probability
    /// of the user's choice.
    Choice(Question),
    /// Which of two answers continues a conversation? The verdict is the probability of the first answer relative to both, in any
    /// case, read in one forward pass, whatever the judge's mode.
    Answer {
        /// The conversation. If the last turn is the assistant's, the answer continues it.
        messages: Vec<Message>,
        /// The answers, such as `yes` and `no`, without spaces around them.
        choices: [String; 2],
    },
    /// How likely is a text as the continuation of a conversation? The verdict is the geometric mean of the probabilities of its
    /// tokens. Only a judge in this process can answer.
    Likelihood {
        /// The conversation. If the last turn is the assistant's, the text continues it.
        messages: Vec<Message>,
        /// The text.
        text: String,
    },
}

/// A query, and the judges that it goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PanelRequest {
    /// Name of the judge; `None` for the run's panel.
    pub judge: Option<String>,
    /// Task of the choice that the query is about. The judges of the panel that serve it answer.
    pub task: Option<String>,
    /// The query.
    pub query: JudgeQuery,
}

impl PanelRequest {
    /// Creates a request to the run's panel, for no particular task.
    pub fn new(query: JudgeQuery) -> Self {
        Self { judge: None, task: None, query }
    }

    /// Creates a request to the run's panel: does the user described by `preference` pick what they picked at `target`? Returns
    /// `None` for a target without a rejected item.
    pub fn choice(target: &Interaction, preference: &str) -> Option<Self> {
        let query = JudgeQuery::Choice(question(target, preference)?);
        Some(Self::new(query).of_task(target.task.as_deref()))
    }

    /// Directs the request to one judge.
    #[must_use]
    pub fn of_judge(self, judge: &str) -> Self {
        Self { judge: Some(judge.into()), ..self }
    }

    /// Sets the task.
    #[must_use]
    pub fn of_task(self, task: Option<&str>) -> Self {
        Self { task: task.map(str::to_owned), ..self }
    }
}
