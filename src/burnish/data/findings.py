"""The possible findings about rows: severity, meaning and fix."""

from burnish.core.records import Severity

#: code → (severity, meaning, fix). The docs print this table.
CODES: dict[str, tuple[Severity, str, str]] = {
    "broken_json": ("error", "The line is not a JSON object.", "Fix the line."),
    "broken_table": ("error", "The table can't be read.", "Fix the quoting, or export it again."),
    "encoding": ("error", "The file is not UTF-8.", "Save it as UTF-8."),
    "bom": ("note", "The file begins with a byte order mark.", "Nothing: it is skipped."),
    "unread_pictures": (
        "warning",
        "A column contains images, and nothing says that they belong to the question.",
        "Name the column (data.columns.image=COLUMN), or leave it as it is.",
    ),
    "unread_columns": (
        "warning",
        "The rows are read as plain text, though they have other columns.",
        "Name the columns (data.columns.prompt=, data.columns.label=), or say data.format=text.",
    ),
    "wrong_shape": (
        "error",
        "The row lacks a key that its format needs.",
        "Add the key, or drop the row.",
    ),
    "wrong_role": (
        "error",
        "A role is unknown, or the order of the turns can't be rendered.",
        "Roles: one system first, then user and assistant (or tool) in turn.",
    ),
    "no_assistant_turn": (
        "error",
        "There is no assistant turn, so there is nothing to train on.",
        "Add the answer, or drop the row.",
    ),
    "empty_answer": (
        "error",
        "The answer is empty: the model would learn to answer nothing.",
        "Write the answer, or drop the row.",
    ),
    "same_answers": (
        "error",
        "The preferred answer and the rejected one are the same: there is nothing to prefer.",
        "Correct one of them, or drop the row.",
    ),
    "judged_both_ways": (
        "warning",
        "The same answer to the same question is marked desirable and undesirable.",
        "Keep one of them.",
    ),
    "empty_prompt": ("error", "The question is empty.", "Write it, or drop the row."),
    "exact_duplicate": (
        "warning",
        "The same row occurs more than once.",
        "Drop the copies: they weigh double.",
    ),
    "learnt_again": (
        "warning",
        "The conversations of these rows continue in others, which train on their answers again.",
        "Keep the longest row of each conversation, or set the weight of all answers but its last "
        "to 0.",
    ),
    "near_duplicate": (
        "note",
        "Rows are nearly the same.",
        "Keep them if they are intended; splitting never separates them.",
    ),
    "split_leak": (
        "error",
        "Rows of one file are in another one too: the test would contain training rows.",
        "Drop them from the training file; training and compare leave them out automatically.",
    ),
    "near_leak": (
        "warning",
        "Rows of one file are nearly the same as rows of another one.",
        "Drop them from the training file; training and compare leave them out automatically.",
    ),
    "conflicting_answers": (
        "warning",
        "The same question has different answers.",
        "Keep one, or state in the question what makes the difference.",
    ),
    "label_balance": (
        "warning",
        "Some labels have very few rows.",
        "Collect at least 10 rows of each: {labels}.",
    ),
    "label_forms": (
        "warning",
        "Some labels differ only in case, spaces or invisible characters, and count as different.",
        "Spell each in one way: {labels}.",
    ),
    "one_label": (
        "warning",
        "All rows have the same label: there is nothing to classify.",
        "Add rows of the other labels, or leave the label out.",
    ),
    "unseen_label": (
        "error",
        "A file has labels that no training row has.",
        "Add training rows with {labels}, or correct the label.",
    ),
    "personal_data": (
        "warning",
        "There is personal data ({kinds}); a model can repeat what it was trained on.",
        "Remove or replace it before training.",
    ),
    "few_rows": (
        "warning",
        "Too few rows ({count}) to show any but a huge difference.",
        "Collect at least 100 rows, better 300.",
    ),
    "no_rows": ("error", "The file holds no rows.", "Check the path and what wrote the file."),
    "garbled": (
        "warning",
        "Text was decoded wrongly before (`Ã¶` for `ö`).",
        "Export it again as UTF-8, or repair it with ftfy.",
    ),
    "long_text": (
        "warning",
        "A row has more than 100,000 characters: probably a whole file in one field.",
        "Split it into rows.",
    ),
}
