"""One derivative rule, asked one question at a time: `rule` asks, `items` are the questions."""

from funcgrad.crosscheck.battery.rule import AGREE, BOUNDARY, PRIMAL_BODY, QUESTIONS, SECOND_ORDER, check_rule

__all__ = ["AGREE", "BOUNDARY", "PRIMAL_BODY", "QUESTIONS", "SECOND_ORDER", "check_rule"]
