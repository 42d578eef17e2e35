"""Skills: what an agent can do, where it keeps it, and which it practises next."""

from l2o.agents.skills.chooser_training import ChooserTraining
from l2o.agents.skills.choosers import BareProgress, Chooser, LearningProgress, Uniform
from l2o.agents.skills.curriculum import Curriculum, History, lifetimes
from l2o.agents.skills.goals import ALPGMM
from l2o.agents.skills.grid_skills import GridSkills
from l2o.agents.skills.learned_chooser import LearnedChooser
from l2o.agents.skills.library import SkillLibrary
from l2o.agents.skills.options import Options
from l2o.agents.skills.record import Practice, Record
from l2o.agents.skills.skill import Skill
from l2o.agents.skills.skill_graph import SkillGraph

__all__ = [
    "ALPGMM",
    "BareProgress",
    "Chooser",
    "ChooserTraining",
    "Curriculum",
    "GridSkills",
    "History",
    "LearnedChooser",
    "LearningProgress",
    "Options",
    "Practice",
    "Record",
    "Skill",
    "SkillGraph",
    "SkillLibrary",
    "Uniform",
    "lifetimes",
]
