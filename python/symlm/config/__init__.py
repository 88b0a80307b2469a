"""Settings: what they mean, where they come from, and what the engine is made from.

options       the description of one setting: help, kind, limits, what was before it
sections      every setting of a training run and its default, and the tables made from them
train_config  `TrainConfig`: the sections together, and what is checked across them
toml          settings in a file
presets       the shapes that have a name
model_config  the shape of a model, and `config.json`
sources       flags over environment over file over preset; the TOML writer; what a resumed run may change
finetune      what `symlm finetune` sets otherwise
rope          rotary positions as a config.json describes them
sampling      how text is drawn: defaults and limits
engine        what the engine is made from
"""
