"""The words that the simulator knows, by part of speech.

They are plain English on purpose: the output of a demo should be pleasant to read, and a failing
test should show sentences rather than noise. Each list is split at white space; no word is in two
of them.
"""

OPENERS = "The Every Another That This Each Our My Your Her His Their One"

DETERMINERS = "the every another that this each our my your her his their one"

ADJECTIVES = """
quiet small old new long short tall low high deep shallow wide narrow bright dark pale warm cold
cool hot soft hard smooth rough heavy thin thick round gentle kind clever brave shy proud patient
hungry sleepy happy sad lonely busy lazy quick slow early late young ancient modern simple strange
familiar famous hidden broken golden silver copper wooden red blue green yellow orange purple white
black grey brown pink crimson amber dusty muddy rusty shiny foggy windy sunny rainy snowy stormy
misty clean sweet bitter salty fresh ripe wild tame loud silent distant hollow steady careful
curious generous honest humble noble playful cheerful thoughtful restless weary delicate sturdy tiny
huge little plain fancy crooked elegant graceful peaceful faithful grateful cautious ordinary
enormous splendid rugged slender velvet marble scarlet turquoise drowsy nimble merry
"""

NOUNS = """
river harbour lantern bridge garden window letter engine kettle ladder mountain forest island
captain painter teacher farmer sailor baker child neighbour traveller machine clock compass mirror
pocket basket bottle blanket candle carpet chair table cupboard drawer corner corridor doorway
kitchen attic cellar roof chimney fence gate path road street market village town city station train
wagon bicycle boat ferry ship anchor sail rope wheel feather bird sparrow heron owl crow fox hare
horse dog cat mouse beetle bee moth spider fish salmon whale oak willow pine birch maple apple pear
plum cherry berry leaf branch root seed flower rose fern moss stone pebble cliff valley hill meadow
field lake pond stream beach wave storm cloud shadow song melody drum violin piano flute story poem
book page library map picture statue museum theatre dancer singer writer reader doctor nurse judge
king queen giant stranger visitor friend brother sister mother father cousin uncle aunt team family
message signal riddle secret promise idea plan dream number pattern circle triangle colour sound
whisper echo journey harvest festival supper loaf cheese soup cake lamp needle thread button coat
hat scarf glove boot bell key coin purse hammer nail brush bucket spoon plate cup bowl
pilot gardener miller weaver potter carpenter shepherd fisherman merchant printer mountaineer
orchard vineyard lighthouse windmill watermill barn stable castle tower courtyard balcony staircase
raven swallow kitten puppy rabbit squirrel hedgehog badger otter turtle lizard butterfly
notebook envelope postcard telescope microscope umbrella suitcase
rainbow waterfall snowflake teapot hourglass
"""

VERBS = """
carries follows finds watches keeps remembers crosses holds opens closes paints mends builds draws
studies visits warms cools covers circles guards guides greets helps hears sees meets leaves reaches
passes touches lifts pulls pushes turns moves shakes wakes washes dries fills empties feeds teaches
knows loves likes wants wins hides seeks shows shares sells buys borrows lends gathers collects
counts measures weighs cuts ties folds sews bakes cooks tastes writes reads sings catches throws
drops picks waters trims sweeps cleans lights rings calls joins surrounds shelters admires answers
balances borders decorates delivers describes discovers explores forgives imagines inspects invites
observes polishes protects repairs rescues
"""

ADVERBS = """
slowly quickly quietly softly gently often always never sometimes usually rarely already still soon
barely nearly gladly proudly carefully kindly patiently calmly
"""

PREPOSITIONS = """
under over near beside behind beyond across along around through toward inside outside past below
above against before after with without
"""

CONJUNCTIONS = "but while because so when until although"

COMMON = """
a an and or not of to in is it you he was for on are as I they be at have from had by what all were
we can said there use which she do how if will up other about out many then them these some would
make him into time has look two more go way could people than been who now day did get may please
hello Hello world count five Write Tell me What How answer question list code function user system
assistant tool tools name arguments parameters description type string object properties required
think know good year work first well even back only come its things again why where really
"""

FRAGMENTS = """
ing ed er ion tion ment ness able est ly th sh ch qu ou ea re in on an en at or al ar is it le de
st nd nt se te ve ow ay <think> </think> ck ll ss <tool_call> </tool_call> {" "} ": ", {"name":
"""
