use super::*;

fn item(query: Option<&str>, chosen: &str) -> Interaction {
    Interaction { query: query.map(Into::into), chosen: chosen.into(), ..Interaction::default() }
}

fn found(rows: &[(&str, &str, &[Interaction])]) -> Result<String, String> {
    let rows: Vec<KnownRow<'_>> =
        rows.iter().map(|&(text, past, items)| KnownRow { place: "row", text, past, items }).collect();
    derive(&rows).map(|shape| emit(&shape, "summarize")["summarize.j2"].clone()).map_err(|e| e.to_string())
}

#[test]
fn numbers_between_interactions_may_follow_them() {
    let texts = |text: &str| leads(text, 3).iter().map(|lead| fill(lead, 9)).collect::<Vec<_>>();
    assert_eq!(texts("\n3. "), ["\n3. ", "\n9. "]);
    assert_eq!(texts("</2><3>"), ["</2><3>", "</8><3>", "</2><9>", "</8><9>"]);
    assert_eq!(texts("4 x"), ["4 x"]);
    assert_eq!(texts(""), [""]);
}

#[test]
fn the_number_of_the_last_interaction_stays_in_the_block() {
    let two = [item(None, "tea"), item(None, "jam")];
    let three = [item(None, "oat"), item(None, "fig"), item(None, "rye")];
    let rows = [
        ("Past\n<1>tea</1>\n<2>jam</2>\nGo", "Past", &two[..]),
        ("New\n<1>oat</1>\n<2>fig</2>\n<3>rye</3>\nGo", "New", &three[..]),
    ];
    let expected = "{{ past }}\n{% for i in interactions %}\n<{{ loop.index }}>{{ i.chosen }}</{{ loop.index }}>\n\
                    {% endfor %}\nGo\n";
    assert_eq!(found(&rows).unwrap(), expected);
}

#[test]
fn a_past_in_two_places_is_ambiguous() {
    let items = [item(None, "tea"), item(None, "jam")];
    let error = found(&[("none, none: tea, jam.", "none", &items[..])]).unwrap_err();
    assert!(error.contains("which of 3 places of \"none\" is the past summary"), "{error}");
    let other = [item(None, "fig"), item(None, "oat")];
    let rows = [("none, none: tea, jam.", "none", &items[..]), ("some, none: fig, oat.", "some", &other[..])];
    assert!(found(&rows).unwrap().starts_with("{{ past }}, none: "));
}

#[test]
fn a_query_that_the_template_does_not_use_is_left_out() {
    let items = [item(Some("What?"), "tea"), item(Some("Which?"), "jam")];
    assert_eq!(found(&[("P: tea, jam.", "P", &items[..])]).unwrap().matches("query").count(), 0);
    // All queries are the text that stands before the interactions.
    let items = [item(Some("Which?"), "tea"), item(Some("Which?"), "jam")];
    assert_eq!(found(&[("P Which? tea, jam.", "P", &items[..])]).unwrap().matches("query").count(), 0);
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let two = [item(None, "tea"), item(None, "jam")];
    let error = found(&[("P: jam, tea.", "P", &two[..])]).unwrap_err();
    assert!(error.contains("no two consecutive interactions"), "{error}");
    let one = [item(None, "tea")];
    let error = found(&[("P: tea.", "P", &one[..])]).unwrap_err();
    assert!(error.contains("a row with two interactions"), "{error}");
    let rows = [("P: tea, jam.", "P", &two[..]), ("P: tea, jam!", "P", &two[..]), ("P: tea, jam.", "P", &two[..])];
    let error = found(&rows).unwrap_err();
    assert!(error.contains("byte 11 of the user turn: expected \".\", found \"!\""), "{error}");
}
