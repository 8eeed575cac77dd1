"""What is made of a difference: brokers are lists of answers, given one after the other."""

import itertools
import unittest

from comparing import ASK_AGAIN, SCRIPT_FAILED, compare

RIGHT = ["> ask", "< right"]
ALSO_RIGHT = ["> ask", "< also right"]
WRONG = ["> ask", "< wrong"]
BROKEN = ["> ask", f"{SCRIPT_FAILED} at once"]
DECLARED = [{"conversation": "talk", "rabbitmq": "< right", "other": "< better", "reason": "It is."}]


class Broker:
    """Gives these answers in turn, and the last one ever after."""

    def __init__(self, *answers):
        self.answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return next(self.answers)


class Comparing(unittest.TestCase):
    def judged(self, rabbitmq, other):
        return compare("talk", rabbitmq, other, DECLARED)

    def test_equal_answers_are_not_asked_for_again(self):
        rabbitmq, other = Broker(RIGHT), Broker(RIGHT)
        outcome = self.judged(rabbitmq, other)
        self.assertEqual((outcome.declared, outcome.undeclared, outcome.report), (0, 0, []))
        self.assertEqual((rabbitmq.asked, other.asked), (1, 1))

    def test_a_declared_difference_is_counted(self):
        outcome = self.judged(Broker(RIGHT), Broker(["> ask", "< better"]))
        self.assertEqual((outcome.declared, outcome.undeclared, outcome.report), (1, 0, []))

    def test_a_difference_that_stays_fails(self):
        rabbitmq, other = Broker(RIGHT), Broker(WRONG)
        outcome = self.judged(rabbitmq, other)
        self.assertEqual(outcome.undeclared, 1)
        self.assertEqual(outcome.report, ["talk:", "    - < right", "    + < wrong"])
        self.assertEqual((rabbitmq.asked, other.asked), (1 + ASK_AGAIN, 1 + ASK_AGAIN))

    def test_a_difference_that_is_declared_for_another_answer_fails(self):
        self.assertEqual(self.judged(Broker(ALSO_RIGHT), Broker(["> ask", "< better"])).undeclared, 1)

    def test_another_answer_of_rabbitmq_is_right(self):
        for rare, usual in ((ALSO_RIGHT, RIGHT), (RIGHT, ALSO_RIGHT)):
            outcome = self.judged(Broker(rare, rare, usual), Broker(usual))
            self.assertEqual(outcome.undeclared, 0)
            self.assertEqual(outcome.report, ["talk: RabbitMQ answers in 2 ways, asked 3 times"])

    def test_a_difference_that_goes_away_by_itself_fails(self):
        outcome = self.judged(Broker(RIGHT), Broker(WRONG, RIGHT))
        self.assertEqual(outcome.undeclared, 1)
        self.assertIn("talk: the other broker answers in 2 ways, asked 5 times", outcome.report)

    def test_a_wrong_answer_beside_rabbitmqs_several_fails(self):
        for answers in ((ALSO_RIGHT, WRONG), (WRONG, ALSO_RIGHT)):
            self.assertEqual(self.judged(Broker(RIGHT, ALSO_RIGHT), Broker(*answers)).undeclared, 1)

    def test_a_script_that_fails_is_nobodys_answer(self):
        outcome = self.judged(Broker(BROKEN), Broker(BROKEN))
        self.assertEqual(outcome.undeclared, 1)
        self.assertIn(f"    {SCRIPT_FAILED} at once", outcome.report)
        self.assertEqual(self.judged(Broker(BROKEN, RIGHT), Broker(RIGHT)).undeclared, 0)
        self.assertEqual(self.judged(Broker(RIGHT), Broker(BROKEN, RIGHT)).undeclared, 1)


if __name__ == "__main__":
    unittest.main()
