"""Answers to the exercises of docs/learn/06_distillation.py."""

import torch
import torch.nn.functional as functional
from tiny import make_tiny_checkpoint, tiny_texts

from compress.healing.augment import augment
from models.tokenizer import Tokenizer
from models.train.divergence import divergence


def logits(seed):
    return torch.randn(16, 3, generator=torch.Generator().manual_seed(seed)).double()


def test_exercise_1_at_a_high_temperature_the_loss_is_half_the_mean_squared_difference_of_centred_logits():
    student, teacher = logits(0), logits(1)
    difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = difference.pow(2).mean(1) / 2
    assert torch.allclose(divergence("single", student, teacher, temperature=10_000.0), limit, rtol=1e-3)
    assert not torch.allclose(divergence("single", student, teacher, temperature=1.0), limit, rtol=0.1)


def test_exercise_2_a_student_that_equals_its_teacher_has_no_gradient_from_it_but_one_from_labels():
    student = logits(0).requires_grad_()
    loss = divergence("single", student, logits(0), temperature=2.0).sum()
    assert loss.item() < 1e-12
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max() < 1e-12
    labels = student.detach().argmax(1)  # even if each label is the student's own answer
    (gradient,) = torch.autograd.grad(functional.cross_entropy(student, labels), student)
    assert gradient.abs().max() > 1e-3


def test_exercise_3_a_variant_has_the_special_tokens_of_its_text_and_is_never_longer(tmp_path):
    """It needs no label of its own: the teacher is asked what it thinks of the variant."""
    make_tiny_checkpoint(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, 24)
    encoded = tokenizer.encode(tiny_texts(20).rows)
    numbers = [row % 20 for row in range(100)]
    variants, _ = augment(encoded, numbers, tokenizer.special_ids, seed=0)
    for number, variant in zip(numbers, variants, strict=True):
        text = encoded[number]
        assert len(variant.ids) <= len(text.ids)
        assert [i for i in variant.ids if i in tokenizer.special_ids] == [text.ids[0], text.ids[-1]]
    assert sum(variant.ids != encoded[number].ids for number, variant in zip(numbers, variants, strict=True)) > 50
