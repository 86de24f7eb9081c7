"""What can be found in rows, how bad it is, and what to do."""

from burnish.core.records import Severity

#: code → (severity, what it means, what to do). The docs print this table.
CODES: dict[str, tuple[Severity, str, str]] = {
    "broken_json": ("error", "The line is not a JSON object.", "Mend the line."),
    "broken_table": ("error", "The table can't be read.", "Mend the quoting, or export it again."),
    "encoding": ("error", "The file is not UTF-8.", "Save it as UTF-8."),
    "bom": ("note", "The file begins with a byte order mark.", "Nothing: it is skipped."),
    "unread_pictures": (
        "warning",
        "A column holds pictures, and nothing says that they belong to what is asked.",
        "Name the column (data.columns.image=COLUMN), or leave it as it is.",
    ),
    "unread_columns": (
        "warning",
        "The rows are taken for plain text, though they have other columns.",
        "Name the columns (data.columns.prompt=, data.columns.label=), or say data.format=text.",
    ),
    "wrong_shape": ("error", "The row lacks what its format needs.", "Add the key or drop it."),
    "wrong_role": (
        "error",
        "A role is unknown, or the turns stand in no order that can be rendered.",
        "Roles: one system first, then user and assistant (or tool) in turn.",
    ),
    "no_assistant_turn": (
        "error",
        "There is no assistant turn, so there is nothing to learn.",
        "Add the answer, or drop the row.",
    ),
    "empty_answer": (
        "error",
        "The answer is empty: the model would learn to say nothing.",
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
        "Decide for one.",
    ),
    "empty_prompt": ("error", "The question is empty.", "Write it, or drop the row."),
    "exact_duplicate": (
        "warning",
        "The same row stands here more than once.",
        "Drop the copies: they weigh double.",
    ),
    "learnt_again": (
        "warning",
        "The conversations of these rows go on in others, which learn their answers again.",
        "Keep the longest row of each conversation, or give the answers before its last one "
        "weight 0.",
    ),
    "near_duplicate": (
        "note",
        "Rows say nearly the same.",
        "Keep them if they are meant; splitting never tears them apart.",
    ),
    "split_leak": (
        "error",
        "Rows of one file stand in another one too: a model would be asked what it has seen.",
        "Drop them from the training file; training and compare leave them out by themselves.",
    ),
    "near_leak": (
        "warning",
        "Rows of one file stand almost the same in another one.",
        "Drop them from the training file; training and compare leave them out by themselves.",
    ),
    "conflicting_answers": (
        "warning",
        "The same question has different answers.",
        "Decide for one, or say in the question what makes the difference.",
    ),
    "label_balance": (
        "warning",
        "Some labels have very few rows.",
        "Collect at least 10 rows of each: {labels}.",
    ),
    "label_forms": (
        "warning",
        "Some labels differ in case, spaces or signs that can't be seen, and count as different.",
        "Write each in one way: {labels}.",
    ),
    "one_label": (
        "warning",
        "All rows have the same label: there is nothing to tell apart.",
        "Add rows of the other labels, or leave the label out.",
    ),
    "unseen_label": (
        "error",
        "Labels are asked in one file that no training row has.",
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
        "Text was decoded wrongly before it came here (`Ã¶` for `ö`).",
        "Export it again as UTF-8, or mend it with ftfy.",
    ),
    "long_text": (
        "warning",
        "A row has more than 100,000 characters: probably a whole file in one field.",
        "Cut it into rows.",
    ),
}
