//! Programs that work.

use std::fs;
use std::time::{Duration, Instant};

use configs::rl::{ExternalConfig, ExternalSource};
use rewards::ExternalScores;
use serde_json::json;

use crate::fixture::{Bench, ask, example, metric, mine, mine_with, python, responses, texts};

#[test]
fn the_term_of_the_docs_scores_and_logs() {
    let bench = Bench::new();
    for name in ["xplore_reward.py", "few_words.py"] {
        fs::copy(example().join(name), bench.path(name)).unwrap();
    }
    let command = vec![python(), bench.path("few_words.py").display().to_string()];
    let term = mine_with(json!({"limit": 4}), ExternalConfig::new(ExternalSource::Command(command)));
    term.start().unwrap();
    let texts = ["<think>t</think>one two three", "<think>t</think>a b c d e", "malformed"].map(str::to_owned);
    let ExternalScores { term, scores, metrics } = term.ask(0, &responses(&texts, 3)).unwrap();
    // 1 − 3/4; five words are over the limit; a malformed response counts as 4 words. (3 + 5 + 4) / 3 = 4.
    assert_eq!((term.as_str(), &scores[..]), ("mine", &[0.25, 0.0, 0.0][..]));
    assert_eq!(metrics, [("words".to_owned(), 4.0), ("retries".to_owned(), 0.0)]);
}

#[test]
fn the_docs_show_the_term_of_the_example() {
    let docs = fs::read_to_string(example().join("../../docs/extending.md")).unwrap();
    let term = fs::read_to_string(example().join("few_words.py")).unwrap();
    assert!(term.lines().filter(|line| !line.is_empty()).count() <= 10);
    let indented = |line: &str| if line.is_empty() { "\n".into() } else { format!("    {line}\n") };
    let block: String = term.lines().map(indented).collect();
    assert!(docs.contains(&block), "docs/extending.md does not contain\n{block}");
}

#[test]
fn an_exception_in_python_is_told_with_its_traceback_and_what_was_printed_does_no_harm() {
    let bench = Bench::new();
    fs::copy(example().join("xplore_reward.py"), bench.path("xplore_reward.py")).unwrap();
    let command = bench.command(
        "import os\nfrom xplore_reward import run\n\ndef score(batch):\n    print('step', batch['step'])\n    \
         os.system('echo from a shell')\n    if batch['step'] == 1:\n        raise KeyError('topic')\n    \
         return [r['tokens'] / r['token_limit'] for r in batch['responses']]\n\nrun(score)\n",
    );
    let term = mine(ExternalConfig::new(ExternalSource::Command(command)));
    let texts = texts(2);
    let expected: Vec<f64> = texts.iter().map(|text| text.len() as f64 / 100.0).collect();
    assert_eq!(ask(&term, 0, 2).unwrap().scores, expected);
    let error = ask(&term, 1, 2).unwrap_err().to_string();
    assert!(error.contains("step 2: the term reported an error: Traceback") && error.contains("KeyError: 'topic'"));
    assert_eq!(ask(&term, 2, 2).unwrap().scores, expected);
}

#[test]
fn several_workers_are_started_once_and_the_order_of_the_scores_does_not_depend_on_them() {
    let bench = Bench::new();
    let body = "open(os.path.join(FOLDER, f'worker-{os.getpid()}'), 'x').close()\n\
                for line in sys.stdin:\n    request = json.loads(line)\n    \
                time.sleep(0.02 * (request['id'] % 3))\n    \
                numbers = [float(r['summary'][1:]) for r in request['responses']]\n    \
                metrics = {'first': numbers[0], 'size': len(numbers)}\n    \
                say({'id': request['id'], 'scores': numbers, 'metrics': metrics})\n";
    let config = |workers, batch_size| ExternalConfig { workers, batch_size, ..bench.term(body) };
    let expected: Vec<f64> = (0..24).map(f64::from).collect();
    let all = mine(config(1, 0));
    let told = ask(&all, 0, 24).unwrap();
    assert_eq!((&told.scores, metric(&told, "size")), (&expected, Some(24.0)));
    drop(all);
    let count = || {
        let names = fs::read_dir(bench.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("worker-")).count()
    };
    assert_eq!(count(), 1);
    let three = mine(config(3, 4));
    three.start().unwrap();
    for step in 0..5 {
        let told = ask(&three, step, 24).unwrap();
        assert_eq!(told.scores, expected);
        // Six requests of four: the mean of 0, 4, …, 20.
        assert_eq!((metric(&told, "first"), metric(&told, "size")), (Some(10.0), Some(4.0)));
    }
    assert_eq!(count(), 4);
}

#[test]
fn a_request_holds_step_and_params_and_metrics_are_weighted_by_responses() {
    let bench = Bench::new();
    let body = "say({'id': request['id'], 'scores': [request['step'] + request['params']['add']] * len(request['responses']), \
                'metrics': {'size': len(request['responses'])}})";
    let term = mine_with(json!({"add": 0.5}), ExternalConfig { batch_size: 4, ..bench.term_of_requests(body) });
    let told = ask(&term, 7, 6).unwrap();
    assert_eq!(told.scores, [7.5; 6]);
    // Requests of 4 and 2 responses: (4 · 4 + 2 · 2) / 6.
    assert_eq!(metric(&told, "size"), Some(20.0 / 6.0));
    assert_eq!(ask(&term, 0, 0).unwrap().scores, [0.0; 0]);
}

#[test]
fn a_program_ends_with_its_input_in_a_process_group_of_its_own() {
    let bench = Bench::new();
    let term = bench.term(
        "for line in sys.stdin:\n    request = json.loads(line)\n    \
         say({'id': request['id'], 'scores': ones(request), 'metrics': {'leads': os.getpgrp() == os.getpid(), 'pid': os.getpid()}})\n\
         open(os.path.join(FOLDER, 'ended'), 'w').close()\n",
    );
    // JSON has no booleans as numbers.
    assert!(ask(&mine(term.clone()), 0, 2).unwrap_err().to_string().contains("metrics.leads is `true`"));
    let text = fs::read_to_string(bench.path("term.py")).unwrap();
    fs::write(bench.path("term.py"), text.replace("os.getpgrp() == os.getpid()", "int(os.getpgrp() == os.getpid())"))
        .unwrap();
    fs::remove_file(bench.path("ended")).unwrap();
    let term = mine(term);
    let told = ask(&term, 0, 2).unwrap();
    assert_eq!(metric(&told, "leads"), Some(1.0));
    assert!(!bench.path("ended").exists());
    let begin = Instant::now();
    drop(term);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(bench.path("ended").exists());
    let pid = metric(&told, "pid").unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is a zombie");
}
