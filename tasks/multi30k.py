"""Multi30k: image captions (29,000 training, 1,000 test rows); short and simple sentences."""

from finetune.tasks.base import TranslationTask

MULTI30K = TranslationTask(
    name="multi30k",
    title="Multi30k image captions",
    pairs=("de-en", "en-de"),
    default_pair="de-en",
    licence="as Flickr30k: non-commercial research",
    source="Elliott et al. 2016, arXiv 1605.00459; github.com/multi30k/dataset",
    note="put train, validation and test files with the columns de and en into data/multi30k-de-en",
)
