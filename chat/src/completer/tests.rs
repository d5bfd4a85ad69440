use std::cell::Cell;

use super::*;

/// Fails on requests whose seed is odd, as a model does on a conversation that is too long.
struct EvenOnly {
    calls: Cell<usize>,
    broken: bool,
}

impl Completer for EvenOnly {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        self.calls.set(self.calls.get() + 1);
        if self.broken {
            return Err(CompleterError::Model("gone".into()));
        }
        if let Some(index) = requests.iter().position(|r| r.seed % 2 == 1) {
            return Err(CompleterError::Request { index, message: format!("seed {} is odd", requests[index].seed) });
        }
        let said = |r: &CompletionRequest| Completion {
            text: r.seed.to_string(),
            tokens: Vec::new(),
            finish: FinishReason::Stop,
        };
        Ok(requests.iter().map(said).collect())
    }

    fn name(&self) -> &str {
        "even only"
    }
}

#[test]
fn a_request_that_fails_leaves_the_others() {
    let request = |seed| CompletionRequest { seed, ..CompletionRequest::new(Vec::new(), Sampling::greedy(1)) };
    let requests: Vec<_> = [2, 3, 4, 5, 7, 8].map(request).into();
    let model = EvenOnly { calls: Cell::new(0), broken: false };
    let answers: Vec<Result<String, String>> =
        model.complete_each(&requests).unwrap().into_iter().map(|a| a.map(|a| a.text)).collect();
    let odd = |seed: u64| Err(format!("seed {seed} is odd"));
    assert_eq!(answers, [Ok("2".into()), odd(3), Ok("4".into()), odd(5), odd(7), Ok("8".into())]);
    assert_eq!(model.calls.get(), 4);
    let mut done = Vec::new();
    let mut note = |index: usize, completion: &Completion| {
        done.push((index, completion.text.clone()));
        Ok(())
    };
    assert!(model.complete_with(&requests, Failures::Stop, &mut note).is_err());
    assert_eq!(model.complete_with(&requests, Failures::Keep, &mut note).unwrap().len(), 6);
    assert_eq!(done, [(0, "2".to_owned()), (2, "4".to_owned()), (5, "8".to_owned())]);
    let broken = EvenOnly { calls: Cell::new(0), broken: true };
    assert!(broken.complete_each(&requests).unwrap_err().to_string().contains("gone"));
}
