//! What the names of a Python function stand for.

use tree_sitter::Node;

use super::python::{PythonFile, children, walk};

/// Methods that change a list or dictionary in place.
const MUTATORS: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"];

/// Nodes with names of their own.
const SCOPES: [&str; 7] = [
    "function_definition",
    "class_definition",
    "lambda",
    "list_comprehension",
    "set_comprehension",
    "dictionary_comprehension",
    "generator_expression",
];

/// Returns the nodes that bind or change `name` in `scope`, in the order of the source, without those of inner scopes.
pub(super) fn binders<'t>(file: &PythonFile, scope: Node<'t>, name: &str) -> Vec<Node<'t>> {
    let mut found = Vec::new();
    walk(scope, &mut |node| {
        if node != scope && SCOPES.contains(&node.kind()) {
            return false;
        }
        if binds(file, node, name) {
            found.push(node);
        }
        true
    });
    found
}

/// Returns the first `return` statement of a function, without those of inner functions.
pub(super) fn first_return(function: Node<'_>) -> Option<Node<'_>> {
    let mut found = None;
    walk(function, &mut |node| {
        if node.kind() == "return_statement" && found.is_none() {
            found = Some(node);
        }
        found.is_none() && (node == function || !SCOPES.contains(&node.kind()))
    });
    found
}

/// Returns the innermost block of statements around a node.
pub(super) fn block(node: Node<'_>) -> Node<'_> {
    let mut around = node;
    while let Some(parent) = around.parent() {
        around = parent;
        if matches!(around.kind(), "block" | "module") {
            break;
        }
    }
    around
}

fn binds(file: &PythonFile, node: Node<'_>, name: &str) -> bool {
    let targets = |field: &str| node.child_by_field_name(field).is_some_and(|target| is_target(file, target, name));
    match node.kind() {
        // An annotation without a value binds nothing.
        "assignment" => node.child_by_field_name("right").is_some() && targets("left"),
        "augmented_assignment" | "for_statement" => targets("left"),
        "named_expression" => targets("name"),
        "as_pattern" => targets("alias"),
        "expression_statement" => children(node).first().is_some_and(|call| mutates(file, *call, name)),
        _ => false,
    }
}

/// Returns whether assigning to `target` changes what `name` stands for.
fn is_target(file: &PythonFile, target: Node<'_>, name: &str) -> bool {
    match target.kind() {
        "identifier" => file.source(target) == name,
        "subscript" | "attribute" => children(target).first().is_some_and(|object| is_target(file, *object, name)),
        _ => children(target).into_iter().any(|part| is_target(file, part, name)),
    }
}

fn mutates(file: &PythonFile, call: Node<'_>, name: &str) -> bool {
    let Some(function) = call.child_by_field_name("function") else { return false };
    let part = |field: &str| function.child_by_field_name(field).map(|part| file.source(part));
    function.kind() == "attribute"
        && part("object") == Some(name)
        && part("attribute").is_some_and(|method| MUTATORS.contains(&method))
}
