//! The judges of a run: each query goes to one of them by name, or to all that take part in the panel.
//!
//! A batch of requests becomes one batch for each judge. Judges in this process answer on the calling thread, because tensors belong
//! to one thread, one judge after another. A judge at an endpoint answers on a thread of its own; what [`Panel::submit`] sends it is
//! answered while the caller does other work, such as generating the next summaries. Every verdict depends on judge and query only,
//! so neither the time nor the batch in which a query is asked changes it.

mod cache;
mod member;
mod rule;
mod store;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chat::{Completer, PromptSet};
use configs::judge::{JudgePrices, PanelRule};
use serde::{Deserialize, Serialize};

use self::member::Member;
pub use self::rule::combine;
pub use self::store::VerdictStore;
use crate::judge::{JudgeError, JudgeSettings, Verdict};
use crate::query::{JudgeQuery, PanelRequest};

/// SHA-256 of a judge and a query.
type Key = [u8; 32];

/// A query and its key.
type Keyed<'q> = (Key, &'q JudgeQuery);

/// The judges that a request goes to, each with the key of the query.
type Route = Vec<(usize, Key)>;

/// Verdicts of one judge.
type Verdicts = HashMap<Key, Verdict>;

/// The verdict of one judge of a panel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeVerdict {
    /// Name of the judge.
    pub judge: String,
    /// Its verdict.
    pub verdict: Verdict,
}

/// The verdict of the judges that a request went to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PanelVerdict {
    /// The judges' probabilities, combined by the rule of the panel; the probability of the judge if only one was asked.
    pub p_chosen: f64,
    /// Whether one of the judges gave no answer.
    pub malformed: bool,
    /// The verdict of each judge that was asked, in the order of the configuration.
    pub judges: Vec<JudgeVerdict>,
}

impl PanelVerdict {
    /// Returns the verdict of a panel without judges, such as a function of the text.
    pub fn new(p_chosen: f64) -> Self {
        Self { p_chosen, malformed: false, judges: Vec::new() }
    }

    /// Returns the verdict of one judge, if it was asked.
    pub fn of(&self, judge: &str) -> Option<&Verdict> {
        self.judges.iter().find(|own| own.judge == judge).map(|own| &own.verdict)
    }
}

/// The model of a judge.
pub enum JudgeModel {
    /// In this process. It answers on the thread that calls the panel.
    Local(Box<dyn Completer>),
    /// At an endpoint. It answers on a thread of its own.
    Remote(Arc<dyn Completer + Send + Sync>),
}

/// A judge of a [`Panel`].
pub struct PanelJudge {
    /// Name of the judge in metrics and requests.
    pub name: String,
    /// Weight in the panel; a judge with weight 0 answers only requests that name it.
    pub weight: f64,
    /// Tasks on which the judge takes part in the panel; empty for all.
    pub tasks: Vec<String>,
    /// The model.
    pub model: JudgeModel,
    /// The prompt set with the wording of the questions.
    pub prompts: PromptSet,
    /// The settings.
    pub settings: JudgeSettings,
    /// Prices per million tokens.
    pub prices: JudgePrices,
    /// Verdicts on disk, for a judge in this process.
    pub store: Option<VerdictStore>,
}

impl PanelJudge {
    /// Creates a judge of weight 1 for all tasks, without prices, whose verdicts are kept in memory.
    pub fn new(name: &str, model: JudgeModel, prompts: PromptSet, settings: JudgeSettings) -> Self {
        let (name, prices) = (name.to_owned(), JudgePrices::default());
        Self { name, weight: 1.0, tasks: Vec::new(), model, prompts, settings, prices, store: None }
    }
}

/// What a judge did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeStats {
    /// Name of the judge.
    pub judge: String,
    /// Number of queries; equal queries of one batch count once.
    pub requests: u64,
    /// Number of `requests` whose verdict was known, in memory or on disk.
    pub hits: u64,
    /// Number of tokens processed: prompts, generated tokens and scored texts. 0 for a model that does not count them.
    pub tokens: u64,
    /// Seconds in which the judge worked. At an endpoint, they overlap with other work.
    pub seconds: f64,
    /// Cost by the judge's prices; `None` without prices.
    pub cost: Option<f64>,
}

/// The judges of a run.
pub struct Panel {
    members: Vec<Member>,
    rule: PanelRule,
    temperature: f64,
}

impl Panel {
    /// Creates a panel of `judges`, whose probabilities are combined by `rule`. `temperature` is that of [`PanelRule::Softmin`].
    ///
    /// # Errors
    /// Returns [`JudgeError::Settings`] if there is no judge, two have the same name, the settings of a judge are not valid, or the
    /// thread of an endpoint cannot be started.
    pub fn new(judges: Vec<PanelJudge>, rule: PanelRule, temperature: f64) -> Result<Self, JudgeError> {
        let mut names = HashSet::new();
        if judges.iter().any(|judge| !names.insert(judge.name.clone())) {
            return Err(JudgeError::Settings("two judges have the same name; give each its own"));
        }
        if judges.is_empty() {
            return Err(JudgeError::Settings("a panel needs at least one judge"));
        }
        let members = judges.into_iter().map(Member::new).collect::<Result<_, _>>()?;
        Ok(Self { members, rule, temperature })
    }

    /// Returns the names of the judges.
    pub fn names(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.name.as_str()).collect()
    }

    /// Returns whether a judge is at an endpoint.
    pub fn has_remote(&self) -> bool {
        self.members.iter().any(Member::is_remote)
    }

    /// Sends `requests` to those of their judges that are at endpoints, and returns without waiting for the answers, which
    /// [`Self::verdicts`] collects.
    ///
    /// # Errors
    /// Returns [`JudgeError::Unknown`] or [`JudgeError::NoJudge`] for a request without a judge.
    pub fn submit(&self, requests: &[PanelRequest]) -> Result<(), JudgeError> {
        let batches = self.batches(requests, &self.routes(requests)?);
        self.members.iter().zip(&batches).try_for_each(|(member, batch)| member.submit(batch))
    }

    /// Returns one verdict per request, in order. The requests form one batch per judge; a judge does not answer a query again whose
    /// verdict it gave before.
    ///
    /// # Errors
    /// Returns a [`JudgeError`] if a judge fails, a request has no judge, or the verdicts on disk cannot be read or written.
    pub fn verdicts(&self, requests: &[PanelRequest]) -> Result<Vec<PanelVerdict>, JudgeError> {
        let routes = self.routes(requests)?;
        let batches = self.batches(requests, &routes);
        let (mut found, mut open): (Vec<Verdicts>, Vec<Vec<Keyed<'_>>>) = (Vec::new(), Vec::new());
        for (member, batch) in self.members.iter().zip(&batches) {
            let (known, new) = member.look_up(batch)?;
            found.push(known);
            open.push(new);
        }
        // Endpoints answer while the models in this process do.
        for (m, member) in self.members.iter().enumerate() {
            found[m].extend(member.answer_locally(&open[m])?);
        }
        for (m, member) in self.members.iter().enumerate() {
            let answered = member.collect_remote(&batches[m], &found[m])?;
            found[m].extend(answered);
        }
        Ok(requests.iter().zip(&routes).map(|(request, route)| self.combined(request, route, &found)).collect())
    }

    /// Returns what each judge did since the last call, in the order of the judges.
    pub fn take_stats(&self) -> Vec<JudgeStats> {
        self.members.iter().map(Member::take_stats).collect()
    }

    /// Returns the indices of the judges that a request goes to.
    fn asked(&self, request: &PanelRequest) -> Result<Vec<usize>, JudgeError> {
        let all = self.members.iter().enumerate();
        match &request.judge {
            Some(name) => {
                let found = self.members.iter().position(|member| member.name == *name);
                found.map(|m| vec![m]).ok_or_else(|| {
                    let known = self.names().into_iter().map(str::to_owned).collect();
                    JudgeError::Unknown { name: name.clone(), known }
                })
            }
            None => {
                let task = request.task.as_deref();
                let serving: Vec<usize> = all.filter(|(_, member)| member.serves(task)).map(|(m, _)| m).collect();
                if serving.is_empty() {
                    return Err(JudgeError::NoJudge { task: request.task.clone() });
                }
                Ok(serving)
            }
        }
    }

    fn routes(&self, requests: &[PanelRequest]) -> Result<Vec<Route>, JudgeError> {
        let route = |request: &PanelRequest| -> Result<Route, JudgeError> {
            let query = serde_json::to_vec(&request.query).expect("texts always serialize");
            let keyed = self.asked(request)?.into_iter().map(|m| (m, self.members[m].key(&query)));
            Ok(keyed.collect())
        };
        requests.iter().map(route).collect()
    }

    /// Returns the queries of each judge with their keys, equal ones once, in order.
    fn batches<'q>(&self, requests: &'q [PanelRequest], routes: &[Route]) -> Vec<Vec<Keyed<'q>>> {
        let mut batches: Vec<Vec<Keyed<'q>>> = self.members.iter().map(|_| Vec::new()).collect();
        let mut seen = HashSet::new();
        for (request, route) in requests.iter().zip(routes) {
            for &(m, key) in route {
                if seen.insert((m, key)) {
                    batches[m].push((key, &request.query));
                }
            }
        }
        batches
    }

    fn combined(&self, request: &PanelRequest, route: &[(usize, Key)], found: &[Verdicts]) -> PanelVerdict {
        let of = |(m, key): &(usize, Key)| JudgeVerdict {
            judge: self.members[*m].name.clone(),
            verdict: found[*m][key].clone(),
        };
        let judges: Vec<JudgeVerdict> = route.iter().map(of).collect();
        let weighted: Vec<(f64, f64)> =
            judges.iter().zip(route).map(|(own, (m, _))| (own.verdict.p_chosen, self.members[*m].weight)).collect();
        let p_chosen = match request.judge {
            Some(_) => weighted[0].0,
            None => combine(self.rule, self.temperature, &weighted),
        };
        PanelVerdict { p_chosen, malformed: judges.iter().any(|own| own.verdict.malformed), judges }
    }
}
