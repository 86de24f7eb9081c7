"""A reward of one's own: the share of the answer's letters that are the wanted one."""


def reward(answer, row, letter="e"):
    return answer.count(letter) / max(len(answer), 1)
