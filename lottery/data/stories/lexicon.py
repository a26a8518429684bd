"""The words of the story world, grouped by the part they play. Plain strings, split on white space."""

GIRLS = """
Mia Anna Lily Rosa Clara Nora Ella Ruth Ada Ivy Hazel Maya Lena Zoe Eva Tara Nina Sofia Elsa Greta Wilma Agnes Edith Flora
Martha Alice Beth Cora Dora Esther Freya Gwen Hannah Irene Julia Kate Laura Mabel Nelly Olive Paula Queenie Rachel Sarah Tessa
Ursula Vera Wendy Yara Zelda Bridget Celia Daphne Erin Fiona Gemma Heidi Ingrid Judith Karin Linda Monica Naomi Odette Petra
Rita Sylvia Thelma Una Violet Willa Ximena Yvonne Abigail Bella Carmen Delia Emma Faith Grace Helen Isabel Joan Kira Lydia
""".split()

BOYS = """
Tom Ben Max Sam Leo Jack Finn Hugo Otto Paul Carl Dan Eric Fred Gus Henry Ivan Jonas Karl Luke Mark Noah Oscar Peter Quinn
Ralph Simon Theo Ulrich Victor Walter Xavier Yusuf Zach Adam Bruno Caleb David Edgar Felix George Harold Isaac James Kurt Lewis
Martin Nathan Oliver Philip Robert Stefan Thomas Umar Vincent Wesley Albert Boris Conrad Dennis Emil Frank Gerald Hector Ian
Jasper Kevin Lionel Milo Ned Owen Percy Rufus Silas Toby Virgil Warren Arthur Basil Cyril Duncan Ezra Floyd Gilbert Humphrey
""".split()

PLACE_HEADS = """
Ash Birch Black Bright Brook Clay Cold Crow Dale East Elm Fair Fern Fox Glen Gold Green Grey Hart High Kings Lake Long Marsh
Mill Moor North Oak Otter Pine Red River Rock Rose Sand Silver South Spring Stone Sun Swan Thorn West White Wild Wind Winter Wood
""".split()
PLACE_TAILS = "bridge bury dale field ford ham haven hill hurst land leigh ley mere port stead ton view ville wick worth".split()

SURNAME_TAILS = "er man well son smith wright worthy song brook".split()

JOBS = """
baker farmer miller tailor teacher painter sailor shepherd carpenter gardener blacksmith fisher potter weaver doctor nurse
librarian musician clockmaker beekeeper postman builder cook shoemaker ferryman lamplighter toymaker printer barber
""".split()

# Where people go. Each stands after "the".
PLACES = """
market mill bakery library harbour forest meadow river lake bridge castle school garden barn farm church tower cave beach orchard
station square hill valley field pond well kitchen attic cellar workshop inn museum theatre bank park playground lighthouse
stable greenhouse vineyard quarry waterfall island village forge dairy hospital bookshop fountain pier dock courtyard temple
windmill boathouse schoolhouse crossroads clearing
""".split()

# What can be owned, carried, lost and found: one of each thing in a story.
THINGS = """
ball kite boat drum flute lantern basket book map key ring hat scarf coat blanket mirror clock whistle bell candle cup bowl spoon
knife rope ladder hammer saw brush bucket broom box bag purse coin letter picture puzzle doll puppet top marble mask crown necklace
bracelet button needle ribbon cloak glove boot shoe belt umbrella feather shell stone crystal telescope compass violin trumpet
guitar harp pencil notebook paintbrush card dice chessboard wagon cart wheel sled kettle pot pan plate jug jar bottle barrel
pillow rug curtain vase lamp torch hook net oar paddle anchor sail flag banner medal trophy badge diary scroll stamp parcel
locket thimble rattle trowel rake spade shovel sack saddle bridle horseshoe weathervane wreath fan comb
""".split()

# What can be counted and eaten: singular/plural.
FOODS = [
    tuple(pair.split("/"))
    for pair in """
apple/apples pear/pears plum/plums cherry/cherries peach/peaches lemon/lemons orange/oranges fig/figs grape/grapes melon/melons
carrot/carrots potato/potatoes onion/onions turnip/turnips bean/beans pea/peas tomato/tomatoes radish/radishes cabbage/cabbages
pumpkin/pumpkins egg/eggs bun/buns cookie/cookies pie/pies tart/tarts pancake/pancakes muffin/muffins biscuit/biscuits
walnut/walnuts chestnut/chestnuts acorn/acorns berry/berries mushroom/mushrooms candy/candies cake/cakes dumpling/dumplings
sausage/sausages sandwich/sandwiches waffle/waffles pretzel/pretzels apricot/apricots olive/olives cucumber/cucumbers
""".split()
]

ANIMALS = """
dog cat rabbit fox squirrel hedgehog mouse owl duck goose swan hen horse pony donkey goat sheep lamb calf cow pig frog turtle
otter beaver badger deer bear wolf crow raven sparrow robin pigeon parrot bee butterfly snail lizard hamster kitten puppy duckling
foal piglet mole heron stork falcon seal crab
""".split()

COLOURS = "red blue green yellow white black brown grey golden silver purple pink orange crimson violet scarlet".split()
MATERIALS = "wooden iron copper paper woollen silk leather glass brass tin clay stone velvet cotton straw ivory".split()
LOOKS = """
old new big small tiny heavy light shiny dusty broken pretty strange plain smooth rough round long short thick thin fine soft
worn clean dirty simple lovely curious bright dull ancient painted polished carved folded knitted
""".split()
MOODS_GOOD = """
happy glad proud cheerful calm pleased merry thankful excited joyful content hopeful delighted relieved peaceful grateful
""".split()
MOODS_BAD = "sad worried tired angry lonely afraid upset cold hungry nervous unhappy gloomy restless disappointed ashamed puzzled".split()
TRAITS = """
kind clever brave quiet shy patient curious gentle honest funny careful strong stubborn friendly polite lazy busy wise young bold
generous thoughtful clumsy playful serious hardworking cautious forgetful talkative helpful dreamy stern
""".split()
PLACE_LOOKS = """
quiet busy old narrow sunny dark empty crowded green muddy windy peaceful noisy steep misty warm cool shady dusty wide snowy
deserted lively lonely
""".split()

# How one goes: past form.
MOVES = """
walked went ran hurried wandered strolled marched rushed travelled rode cycled crept raced skipped headed returned climbed
jogged trotted limped drifted rambled
""".split()
ADVERBS = """
quickly slowly quietly happily sadly carefully gently suddenly bravely politely loudly softly proudly eagerly gladly shyly
calmly kindly nervously patiently secretly cheerfully thoughtfully anxiously gracefully warmly
""".split()
TIMES = """
morning afternoon evening night
""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SEASONS = "spring summer autumn winter".split()
MONTHS = "January February March April May June July August September October November December".split()
WEATHER = [
    "The sun was shining.",
    "It was raining.",
    "It was snowing.",
    "A cold wind was blowing.",
    "The sky was grey.",
    "There was a thick fog.",
    "It was very hot.",
    "The clouds were low.",
    "A storm was coming.",
    "The sky was clear.",
    "Thunder rolled far away.",
    "There was frost on the grass.",
    "A warm breeze came from the south.",
    "The moon was bright.",
    "The air smelled of rain.",
    "Leaves were falling from the trees.",
]
CONTAINERS = "box basket chest drawer cupboard sack barrel trunk crate wardrobe bucket pot bag suitcase cabinet".split()
SPOTS = """
table bench bed tree bush stone chair shelf stairs wall fence door window rug wagon log roof haystack
""".split()
UNDER = "under behind beside near".split()
SOUNDS_GOOD = "laughed smiled nodded cheered giggled grinned sang hummed clapped danced".split()
SOUNDS_BAD = "sighed frowned wept shivered whispered cried trembled sobbed".split()
WORKS = [  # what one does at leisure: past form
    "read a story",
    "sang a song",
    "drew a picture",
    "told a joke",
    "played a game",
    "baked some bread",
    "cooked some soup",
    "planted a tree",
    "watered the flowers",
    "swept the floor",
    "counted the stars",
    "fed the hens",
    "mended the fence",
    "painted the door",
    "wrote a letter",
    "danced in the rain",
    "built a sandcastle",
    "climbed a tree",
    "flew a paper plane",
    "listened to the birds",
    "washed the dishes",
    "chopped some wood",
    "picked some flowers",
    "watched the clouds",
    "learned a poem",
    "practised the piano",
    "polished the windows",
    "milked the cow",
    "caught a fish",
    "lit a fire",
    "skipped stones",
    "solved a riddle",
    "sharpened the tools",
    "stacked the hay",
    "brushed the horse",
    "gathered firewood",
    "knitted a sock",
    "carved a whistle",
    "sorted the seeds",
    "rang the bell",
    "brewed some tea",
    "peeled the potatoes",
]
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
TROUBLES = [  # what an animal suffers, and how it is helped
    ("was stuck in a fence", "opened the fence", "ran free"),
    ("had a thorn in its foot", "pulled out the thorn", "could walk again"),
    ("was hungry", "brought it some food", "ate everything"),
    ("was thirsty", "fetched some water", "drank for a long time"),
    ("had lost its mother", "looked for its mother", "was home again"),
    ("had fallen into a hole", "lowered a rope", "climbed out"),
    ("was caught in a net", "cut the net", "was free"),
    ("was cold and wet", "wrapped it in a towel", "fell asleep"),
    ("had hurt its leg", "tied a bandage around the leg", "limped home"),
    ("was afraid of the thunder", "sat down beside it", "was calm"),
]
LESSONS = [
    "a friend is worth more than gold",
    "it is good to share",
    "a promise must be kept",
    "patience is never wasted",
    "even a small gift can bring great joy",
    "it is better to ask than to guess",
    "an honest word opens every door",
    "nobody is too small to help",
    "what is lost can be found again",
    "the longest road begins at home",
    "kindness always comes back",
    "a little courage goes a long way",
    "many hands make light work",
]
