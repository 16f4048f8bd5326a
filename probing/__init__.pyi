from .extraction import hidden_states as hidden_states
from .patching import logit_lens as logit_lens
from .patching import patch as patch
from .patching import steer as steer
from .sites import site_names as site_names
from .states import Design as Design
from .states import StateArray as StateArray
from .states import States as States
