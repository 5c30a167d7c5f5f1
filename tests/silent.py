"""Progress that tells nobody."""


class Silent:
    def stage(self, text, total=0):
        pass

    def advance(self):
        pass

    def note(self, text):
        pass
