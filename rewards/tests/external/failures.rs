//! Programs that fail: each failure ends in a clear error or in the fallback, in bounded time and memory.

use std::time::{Duration, Instant};

use configs::rl::{ExternalConfig, ExternalSource};
use rewards::{ExternalScores, RewardError, RewardResponse};

use crate::fixture::{Bench, ask, metric, mine, responses, says, texts};

/// Asserts that the program fails with an error that contains `words`, and that with a fallback all responses have it after
/// `retries` retries.
#[track_caller]
fn fails(config: ExternalConfig, words: &[&str], retries: usize) {
    let error = ask(&mine(config.clone()), 3, 4).unwrap_err();
    assert!(matches!(error, RewardError::External { .. }));
    says(&error.to_string(), &[&["reward term `mine` (", "term.py): step 4: "][..], words].concat());
    let ExternalScores { scores, metrics, .. } =
        ask(&mine(ExternalConfig { fallback: Some(0.25), ..config }), 3, 4).unwrap();
    assert_eq!(scores, [0.25; 4]);
    assert_eq!(metrics, [("retries".to_owned(), retries as f64), ("fallback".to_owned(), 1.0)]);
}

#[test]
fn a_crash_is_told_with_exit_code_and_standard_error() {
    let bench = Bench::new();
    let crash = "print('one', file=sys.stderr)\nsys.stderr.write('no such topic')\nsys.exit(3)";
    fails(bench.term_of_requests(crash), &["ended with exit code 3", "standard error:\none\nno such topic"], 1);
    let abort = "os.kill(os.getpid(), 9)";
    let never = ExternalConfig { retries: 0, ..bench.term_of_requests(abort) };
    fails(never, &["killed by signal 9", "standard error is empty"], 0);
    let closes = ExternalConfig { retries: 0, ..bench.term("os.close(1)\ntime.sleep(600)\n") };
    fails(closes, &["it closed its standard output"], 0);
}

#[test]
fn a_program_that_crashed_is_restarted_and_asked_again() {
    let bench = Bench::new();
    let once = "marker = os.path.join(FOLDER, str(request['step']))\n\
                if not os.path.exists(marker):\n    open(marker, 'w').close()\n    os.abort()\n\
                say({'id': request['id'], 'scores': ones(request)})";
    let term = mine(bench.term_of_requests(once));
    for step in 0..3 {
        let told = ask(&term, step, 4).unwrap();
        assert_eq!((&told.scores[..], metric(&told, "retries")), (&[1.0; 4][..], Some(1.0)));
    }
    let never = mine(ExternalConfig { retries: 0, ..bench.term_of_requests(once) });
    says(&ask(&never, 8, 4).unwrap_err().to_string(), &["step 9: it was killed by signal 6"]);
    assert_eq!(ask(&never, 8, 4).unwrap().scores, [1.0; 4]);
}

#[test]
fn a_part_of_the_requests_may_have_the_fallback() {
    let bench = Bench::new();
    let some = "if request['responses'][0]['summary'] == 's2':\n    sys.exit(1)\n\
                say({'id': request['id'], 'scores': ones(request)})";
    let config = ExternalConfig { batch_size: 2, fallback: Some(-1.0), ..bench.term_of_requests(some) };
    let told = ask(&mine(config), 0, 8).unwrap();
    assert_eq!(told.scores, [1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!((metric(&told, "retries"), metric(&told, "fallback")), (Some(1.0), Some(0.25)));
}

#[test]
fn a_program_that_loses_every_request_is_not_asked_the_rest_of_a_stage() {
    let bench = Bench::new();
    let config = ExternalConfig { batch_size: 2, fallback: Some(0.5), ..bench.term_of_requests("sys.exit(1)") };
    let term = mine(config);
    // Of 6 requests, 3 are sent, each twice; and as many at the next stage.
    for step in 0..2 {
        let told = ask(&term, step, 12).unwrap();
        assert_eq!(told.scores, [0.5; 12]);
        assert_eq!((metric(&told, "retries"), metric(&told, "fallback")), (Some(3.0), Some(1.0)));
    }
}

#[test]
fn a_program_that_hangs_is_killed_after_the_time_out() {
    let bench = Bench::new();
    let begin = Instant::now();
    let config = ExternalConfig { timeout_seconds: 0.5, retries: 0, ..bench.term_of_requests("time.sleep(600)") };
    fails(config, &["did not answer within 0.5 s"], 0);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
fn a_slow_start_has_a_limit_of_its_own() {
    let bench = Bench::new();
    let text = "import json, sys, time\ntime.sleep(1.5)\njson.loads(sys.stdin.readline())\n\
                print('{\"xplore_reward\": 1}', flush=True)\nfor line in sys.stdin:\n    request = json.loads(line)\n    \
                print(json.dumps({'id': request['id'], 'scores': [1] * len(request['responses'])}), flush=True)\n";
    let command = ExternalSource::Command(bench.command(text));
    let config = ExternalConfig { timeout_seconds: 1.0, ..ExternalConfig::new(command) };
    let term = mine(config.clone());
    term.start().unwrap();
    assert_eq!(ask(&term, 0, 2).unwrap().scores, [1.0; 2]);
    let soon = mine(ExternalConfig { start_timeout_seconds: 0.25, ..config });
    let error = soon.start().unwrap_err().to_string();
    says(&error, &["reward term `mine` (", "the handshake failed: it did not answer within 0.25 s"]);
}

#[test]
fn a_start_that_fails_is_an_error_even_with_a_fallback() {
    let bench = Bench::new();
    let start = |config: ExternalConfig| {
        let config = ExternalConfig { fallback: Some(0.0), workers: 2, ..config };
        mine(config).start().unwrap_err().to_string()
    };
    let command = |command: &[&str]| {
        ExternalConfig::new(ExternalSource::Command(command.iter().map(|&word| word.to_owned()).collect()))
    };
    says(&start(command(&["./no-such-python", "a.py"])), &["(./no-such-python a.py): cannot start `./no-such-python`"]);
    let version = ExternalConfig::new(ExternalSource::Command(bench.command("print('{\"xplore_reward\": 9}')")));
    says(&start(version), &["speaks version 9 of the protocol", "xplore_reward.py"]);
    let syntax = ExternalConfig::new(ExternalSource::Command(bench.command("def score(:\n")));
    says(&start(syntax), &["the handshake failed: it ended with exit code 1", "SyntaxError"]);
    let prints = ExternalConfig::new(ExternalSource::Command(bench.command("print('Loading checkpoint')")));
    says(&start(prints), &["`Loading checkpoint`", "print to standard error"]);
}

#[test]
fn anything_but_an_answer_on_standard_output_is_an_error() {
    let bench = Bench::new();
    let prints = "print('scoring…', flush=True)\nsay({'id': request['id'], 'scores': ones(request)})";
    fails(bench.term_of_requests(prints), &["got `scoring…`", "standard output is for answers only"], 1);
    let bytes = "sys.stdout.buffer.write(b'\\xff\\xfe\\n')\nsys.stdout.flush()";
    fails(bench.term_of_requests(bytes), &["not UTF-8"], 1);
    // The second line is found out at the next request, to which the program, started again, gives the right answer.
    let twice =
        "say({'id': request['id'], 'scores': ones(request)})\nsay({'id': request['id'], 'scores': ones(request)})";
    let term = mine(bench.term_of_requests(twice));
    assert_eq!(metric(&ask(&term, 0, 2).unwrap(), "retries"), Some(0.0));
    let next = ask(&term, 1, 2).unwrap();
    assert_eq!((&next.scores[..], metric(&next, "retries")), (&[1.0; 2][..], Some(1.0)));
}

#[test]
fn scores_that_cannot_be_used_are_not_asked_for_again() {
    let bench = Bench::new();
    let scores = |scores: &str| bench.term_of_requests(&format!("say({{'id': request['id'], 'scores': {scores}}})"));
    fails(scores("ones(request)[1:]"), &["3 scores for 4 responses"], 0);
    fails(scores("ones(request) + [1]"), &["5 scores for 4 responses"], 0);
    fails(scores("[float('nan')] * 4"), &["NaN or Infinity", "expected finite numbers"], 0);
    fails(scores("[1, 1, None, 1]"), &["scores[2] (user <think>t</think>s2) is `null`", "a finite number"], 0);
    fails(scores("['1', 1, 1, 1]"), &["scores[0]", "`\"1\"`"], 0);
    fails(bench.term_of_requests("say({'id': request['id'], 'error': 'no model'})"), &["an error: no model"], 0);
}

#[test]
fn endless_output_is_cut() {
    let bench = Bench::new();
    let begin = Instant::now();
    let config = bench.term_of_requests("while True:\n    sys.stdout.write('x' * 65536)");
    fails(ExternalConfig { retries: 0, ..config }, &["a line of more than 64 MiB"], 0);
    let lines = bench.term_of_requests("while True:\n    sys.stdout.write('x\\n' * 65536)");
    fails(ExternalConfig { retries: 0, ..lines }, &["got `x`"], 0);
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

/// Returns responses of 4 MiB of text in total, far more than a pipe holds.
fn large_texts() -> Vec<String> {
    texts(4).iter().map(|text| format!("{text} {}", "word ".repeat(1 << 18))).collect()
}

#[test]
fn a_flood_of_standard_error_does_not_block() {
    let bench = Bench::new();
    let flood = "for i in range(100):\n    sys.stderr.write('x' * 80000 + '\\n')\nsys.stderr.write('last words\\n')\n";
    let answers = format!("{flood}say({{'id': request['id'], 'scores': ones(request)}})");
    assert_eq!(ask(&mine(bench.term_of_requests(&answers)), 0, 4).unwrap().scores, [1.0; 4]);
    let error = ask(&mine(bench.term_of_requests(&format!("{flood}sys.exit(1)"))), 0, 4).unwrap_err().to_string();
    says(&error, &["exit code 1", "last words"]);
    assert!(error.len() < 10_000, "{}", error.len());
}

#[test]
fn a_program_that_writes_before_it_reads_does_not_block() {
    let bench = Bench::new();
    // Neither side could continue if xplore wrote its 5 MB before it read.
    let eager = "say({'id': 0, 'scores': [1.0] * 4, 'padding': 'x' * (8 << 20)})\nrequest = json.loads(sys.stdin.readline())\n\
                 assert len(request['responses'][0]['text']) > 1 << 20\n\
                 for line in sys.stdin:\n    say({'id': 1, 'scores': [0.5] * 4})\n";
    let texts = large_texts();
    let responses: Vec<RewardResponse<'_>> = responses(&texts, 4);
    let term = mine(bench.term(eager));
    assert_eq!(term.ask(0, &responses).unwrap().scores, [1.0; 4]);
    assert_eq!(term.ask(1, &responses).unwrap().scores, [0.5; 4]);
}

#[test]
fn a_program_that_does_not_read_does_not_block() {
    let bench = Bench::new();
    let begin = Instant::now();
    let texts = large_texts();
    let deaf = ExternalConfig { timeout_seconds: 0.5, retries: 1, ..bench.term("time.sleep(600)\n") };
    let error = mine(deaf).ask(0, &responses(&texts, 4)).unwrap_err().to_string();
    says(&error, &["did not answer within 0.5 s"]);
    let ends = bench.term("os.close(0)\nsys.exit(4)\n");
    says(&mine(ends).ask(0, &responses(&texts, 4)).unwrap_err().to_string(), &["exit code 4"]);
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}
