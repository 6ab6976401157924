"""The words that word scenes show: single letters and about two hundred short common English words."""

from __future__ import annotations

from scenes.rng import stable_hash

_TWO = "AM AN AS AT BE BY DO GO HE IF IN IT ME MY NO OF ON OR OX SO TO UP US WE"
_THREE = (
    "ACT AIR ANT ART BAG BED BEE BIG BOX BOY BUS CAN CAR CAT COW CUP DAY DOG DRY EAR EAT EGG EYE FAR FEW FIX FLY FOX "
    "FUN GAS HAT HEN HOT ICE INK JAM JAR JOB JOY KEY KID LEG LOW MAP MIX MUD NET NEW NUT OAK OIL OLD OWL PEN PIG POT "
    "QUO ROW RUN SEA SKY SUN TAX TEA TEN TOY USE VAN VET WAX WEB WIN YES ZIP ZOO"
)
_FOUR = (
    "AQUA AWAY BABY BALL BEAR BIKE BIRD BOAT BOOK CAKE CITY COLD DEEP DOOR DUCK EASY EVEN FAST FISH FIVE FOUR FROG "
    "GAME GIFT GOLD GOOD GRAY HAND HELP HOME HOPE IDEA IRON JAZZ JUMP KING KIND KITE LAKE LAMP LEAF LIFE LION LOVE "
    "MILK MOON MOVE NAME NEXT NINE NOTE OPEN OVER PARK PLAY QUIT QUIZ RAIN READ RICE ROAD SALT SHIP SNOW SONG STAR "
    "TIME TREE TURN UNIT VERY VIEW WALK WARM WAVE WIND WOLF WORD YARD YEAR ZERO ZONE"
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS: tuple[str, ...] = (*LETTERS, *_TWO.split(), *_THREE.split(), *_FOUR.split())


def is_held_out_word(word: str) -> bool:
    """Whether a word is kept from training: one in five by hash, never a single letter, so each letter is seen."""
    return len(word) > 1 and stable_hash("word", word) % 5 == 0
