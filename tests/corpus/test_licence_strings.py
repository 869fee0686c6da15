"""Terms as stewards define them, and as people state them: a table of strings with the licence and class of each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.core.settings import Settings
from provenance.corpus.rights import spdx
from provenance.corpus.rights.licences import classify
from provenance.corpus.rights.policy import read_policy

POLICY = read_policy(Settings().rights.policy)
CC, OSI, SPDX = "https://creativecommons.org", "https://opensource.org", "https://spdx.org/licenses"
WITH = "GPL-2.0-only WITH"
# Each string, and the expression that it means; the class follows below.
EXPRESSIONS = {
    # ids, in any letter case
    "MIT": "MIT", "mit": "MIT", "Mit": "MIT", "apache-2.0": "Apache-2.0", "APACHE-2.0": "Apache-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "0BSD": "0BSD", "isc": "ISC", "cc0-1.0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "CC-BY-SA-4.0": "CC-BY-SA-4.0",
    "ofl-1.1": "OFL-1.1",
    "MPL-2.0": "MPL-2.0", "Unlicense": "Unlicense", "zlib": "Zlib", "BSL-1.0": "BSL-1.0", "psf-2.0": "PSF-2.0",
    "ODbL-1.0": "ODbL-1.0",
    # or any later version
    "Apache-2.0+": "Apache-2.0+", "apache-2.0+": "Apache-2.0+", "CDDL-1.0+": "CDDL-1.0+", "EUPL-1.2+": "EUPL-1.2+",
    "MPL-2.0+": "MPL-2.0+",
    "GPL-2.0+": "GPL-2.0-or-later", "gpl-3.0+": "GPL-3.0-or-later", "LGPL-2.1+": "LGPL-2.1-or-later",
    "AGPL-3.0+": "AGPL-3.0-or-later",
    "GFDL-1.3+": "GFDL-1.3-or-later", "CC-BY-4.0+": "CC-BY-4.0+", "(Apache-2.0+)": "Apache-2.0+", "EPL-1.0+": "EPL-1.0+",
    "MIT OR CDDL-1.0+": "CDDL-1.0+ OR MIT", "Apache-2.0+ AND MIT": "Apache-2.0+ AND MIT", "OSL-3.0+": "OSL-3.0+",
    "LPPL-1.3c+": "LPPL-1.3c+",
    "LGPL-2.1+ WITH Classpath-exception-2.0": "LGPL-2.1-or-later WITH Classpath-exception-2.0",
    "Apache-2.0+ WITH LLVM-exception": "Apache-2.0+ WITH LLVM-exception",
    # deprecated
    "GPL-1.0": "GPL-1.0-only", "GPL-2.0": "GPL-2.0-only", "GPL-3.0": "GPL-3.0-only", "LGPL-2.0": "LGPL-2.0-only",
    "AGPL-3.0": "AGPL-3.0-only",
    "LGPL-2.1": "LGPL-2.1-only", "LGPL-3.0": "LGPL-3.0-only", "GFDL-1.1": "GFDL-1.1-only", "GFDL-1.2": "GFDL-1.2-only",
    "BSD-2-Clause-NetBSD": "BSD-2-Clause", "BSD-2-Clause-FreeBSD": "BSD-2-Clause-Views", "bzip2-1.0.5": "bzip2-1.0.6",
    "Nunit": "zlib-acknowledgement", "Net-SNMP": "BSD-3-Clause AND MIT-CMU",
    "GPL-2.0-with-autoconf-exception": f"{WITH} Autoconf-exception-2.0",
    "GPL-2.0-with-bison-exception": f"{WITH} Bison-exception-2.2",
    "GPL-2.0-with-classpath-exception": f"{WITH} Classpath-exception-2.0",
    "GPL-2.0-with-font-exception": f"{WITH} Font-exception-2.0",
    "GPL-2.0-with-GCC-exception": f"{WITH} GCC-exception-2.0", "gpl-2.0-with-gcc-exception": f"{WITH} GCC-exception-2.0",
    "GPL-3.0-with-autoconf-exception": "GPL-3.0-only WITH Autoconf-exception-3.0",
    "GPL-3.0-with-GCC-exception": "GPL-3.0-only WITH GCC-exception-3.1", "eCos-2.0": "GPL-2.0-or-later WITH eCos-exception-2.0",
    "wxWindows": "LGPL-2.0-or-later WITH WxWindows-exception-3.1",
    "MIT OR GPL-2.0-with-classpath-exception": f"{WITH} Classpath-exception-2.0 OR MIT",
    # expressions
    "MIT OR Apache-2.0": "Apache-2.0 OR MIT", "(MIT OR Apache-2.0)": "Apache-2.0 OR MIT",
    "mit or apache-2.0": "Apache-2.0 OR MIT",
    "MIT AND MIT": "MIT", "MIT AND (ISC OR Zlib)": "MIT AND (ISC OR Zlib)", "MIT/Apache-2.0": "Apache-2.0 OR MIT",
    "MIT / Apache-2.0": "Apache-2.0 OR MIT", "Apache-2.0/ISC/MIT": "Apache-2.0 OR ISC OR MIT",
    "GPL-2.0-only WITH Classpath-exception-2.0": f"{WITH} Classpath-exception-2.0", "LicenseRef-x": "LicenseRef-x",
    # a choice with a branch that cannot be read
    "MIT OR foo": "MIT", "foo OR MIT": "MIT", "MIT OR Foo-1.0 OR ISC": "ISC OR MIT",
    "Apache-2.0 OR (MIT AND foo)": "Apache-2.0",
    "MIT AND (ISC OR foo)": "ISC AND MIT", "MIT or Foo-1.0": "MIT", "MIT OR Commercial": "MIT", "MIT WITH foo OR ISC": "ISC",
    "MIT OR https://example.org/licence": "MIT", "CC-BY-NC-4.0 OR Foo": "CC-BY-NC-4.0", "(Foo-2.0 OR MIT) OR Bar-1": "MIT",
    # Creative Commons
    f"{CC}/licenses/by/4.0/": "CC-BY-4.0", f"{CC}/licenses/by/4.0": "CC-BY-4.0",
    "http://creativecommons.org/licenses/by/4.0/": "CC-BY-4.0",
    "HTTPS://CREATIVECOMMONS.ORG/LICENSES/BY/4.0/": "CC-BY-4.0",
    "https://www.creativecommons.org/licenses/by/4.0/": "CC-BY-4.0",
    "creativecommons.org/licenses/by/4.0/": "CC-BY-4.0", "//creativecommons.org/licenses/by/4.0/": "CC-BY-4.0",
    f"<{CC}/licenses/by/4.0/>": "CC-BY-4.0", f"{CC}/licenses/by/4.0/deed.de": "CC-BY-4.0",
    f"{CC}/licenses/by/4.0/legalcode": "CC-BY-4.0",
    f"{CC}/licenses/by/4.0/legalcode.fr": "CC-BY-4.0", f"{CC}/licenses/by/4.0/?ref=chooser-v1": "CC-BY-4.0",
    f"{CC}/licenses/by-sa/3.0/": "CC-BY-SA-3.0", f"{CC}/licenses/by-sa/3.0/de/": "CC-BY-SA-3.0-DE",
    f"{CC}/licenses/by/3.0/us/": "CC-BY-3.0-US",
    f"{CC}/licenses/by/3.0/jp/": "CC-BY-3.0", f"{CC}/licenses/by-sa/3.0/igo/": "CC-BY-SA-3.0-IGO",
    f"{CC}/licenses/by-nc/2.0/": "CC-BY-NC-2.0",
    f"{CC}/licenses/by-nc-sa/4.0/": "CC-BY-NC-SA-4.0", f"{CC}/licenses/by-nc-nd/4.0/": "CC-BY-NC-ND-4.0",
    f"{CC}/licenses/by-nd/4.0/": "CC-BY-ND-4.0",
    f"{CC}/licenses/by-nd-nc/1.0/": "CC-BY-NC-ND-1.0", f"{CC}/licenses/by/2.5/": "CC-BY-2.5",
    f"{CC}/licenses/by/1.0/": "CC-BY-1.0",
    f"{CC}/publicdomain/zero/1.0/": "CC0-1.0", f"{CC}/publicdomain/zero/1.0/deed.en": "CC0-1.0",
    f"{CC}/publicdomain/mark/1.0/": "CC-PDM-1.0",
    f"{CC}/licenses/publicdomain/": "CC-PDDC", f"MIT AND {CC}/licenses/by/4.0/": "CC-BY-4.0 AND MIT",
    f"CC-BY-4.0 OR {CC}/licenses/by-nc/4.0/": "CC-BY-4.0 OR CC-BY-NC-4.0",
    "CC BY 4.0": "CC-BY-4.0", "cc by-sa 4.0": "CC-BY-SA-4.0", "CC BY-NC-ND 4.0 International": "CC-BY-NC-ND-4.0",
    "CC BY-SA 3.0 DE": "CC-BY-SA-3.0-DE", "CC BY 3.0 JP": "CC-BY-3.0", "CC0": "CC0-1.0", "CC0 1.0 Universal": "CC0-1.0",
    "CC BY-ND-NC 1.0": "CC-BY-NC-ND-1.0", "CC BY-NC-SA 2.5 Generic": "CC-BY-NC-SA-2.5",
    # the Free Software Foundation
    "GPLv3": "GPL-3.0-only", "GPLv3+": "GPL-3.0-or-later", "GNU GPLv2": "GPL-2.0-only", "LGPLv2.1+": "LGPL-2.1-or-later",
    "GPL v2 or later": "GPL-2.0-or-later", "AGPLv3": "AGPL-3.0-only", "GPL-2 only": "GPL-2.0-only",
    "LGPL-2.1-only WITH Nokia-Qt-exception-1.1": "LGPL-2.1-only WITH Qt-LGPL-exception-1.1",
    # SPDX
    f"{SPDX}/MIT": "MIT", f"{SPDX}/MIT.html": "MIT", f"{SPDX}/Apache-2.0.json": "Apache-2.0",
    f"{SPDX}/apache-2.0": "Apache-2.0",
    f"{SPDX}/GPL-2.0-with-classpath-exception.html": f"{WITH} Classpath-exception-2.0",
    "http://spdx.org/licenses/BSD-3-Clause": "BSD-3-Clause",
    f"{SPDX}/GPL-3.0+": "GPL-3.0-or-later", f"{SPDX}/GPL-2.0-or-later.html#licenseText": "GPL-2.0-or-later",
    # Open Source Initiative
    f"{OSI}/licenses/MIT": "MIT", f"{OSI}/license/mit": "MIT", f"{OSI}/license/mit/": "MIT",
    f"{OSI}/licenses/mit-license.php": "MIT",
    "http://www.opensource.org/licenses/mit-license.html": "MIT", f"{OSI}/license/apache-2-0": "Apache-2.0",
    f"{OSI}/licenses/Apache-2.0": "Apache-2.0",
    f"{OSI}/license/bsd-3-clause": "BSD-3-Clause", f"{OSI}/license/bsd-2-clause": "BSD-2-Clause", f"{OSI}/licenses/ISC": "ISC",
    f"{OSI}/license/isc-license-txt": "ISC", f"{OSI}/license/gpl-2-0": "GPL-2.0-only", f"{OSI}/license/gpl-3-0": "GPL-3.0-only",
    f"{OSI}/license/lgpl-2-1": "LGPL-2.1-only", f"{OSI}/license/agpl-v3": "AGPL-3.0-only", f"{OSI}/license/mpl-2-0": "MPL-2.0",
    f"{OSI}/license/epl-2-0": "EPL-2.0", f"{OSI}/license/cddl-1-0": "CDDL-1.0", f"{OSI}/license/upl": "UPL-1.0",
    f"{OSI}/license/ms-pl-html": "MS-PL",
    f"{OSI}/license/osl-3-0-php": "OSL-3.0", f"{OSI}/license/eupl-1-2": "EUPL-1.2",
    f"{OSI}/license/artistic-2-0": "Artistic-2.0",
    f"{OSI}/license/0bsd": "0BSD", f"{OSI}/license/unlicense": "Unlicense", f"{OSI}/license/zlib": "Zlib",
    # other stewards
    "https://www.apache.org/licenses/LICENSE-2.0": "Apache-2.0", "http://www.apache.org/licenses/LICENSE-2.0.txt": "Apache-2.0",
    "https://www.gnu.org/licenses/gpl-3.0.html": "GPL-3.0-only",
    "https://www.gnu.org/licenses/old-licenses/gpl-2.0.en.html": "GPL-2.0-only",
    "https://www.gnu.org/licenses/fdl-1.3.txt": "GFDL-1.3-only", "https://www.mozilla.org/en-US/MPL/2.0/": "MPL-2.0",
    "https://mozilla.org/MPL/2.0": "MPL-2.0", "https://opendatacommons.org/licenses/odbl/1-0/": "ODbL-1.0",
    "https://unlicense.org/": "Unlicense",
    "https://scripts.sil.org/OFL": "OFL-1.1", "https://choosealicense.com/licenses/mit/": "MIT",
}  # fmt: skip
# What is none of these, and what it stays.
WORDS = {
    "MIT or similar": "unspecified", "foo OR bar": "unspecified", "MIT AND foo": "unspecified", "MIT OR": "unspecified",
    "+": "unspecified",
    "MIT +": "unspecified", "GPL-2.0-only+": "unspecified", "MIT++": "unspecified", "GPL-2.0-with-foo-exception": "unspecified",
    "https://example.org/licence": "unspecified", f"{CC}/licenses/by/9.0/": "unspecified", f"{CC}/licenses/": "unspecified",
    f"{CC}.evil.example/licenses/by/4.0/": "unspecified", f"https://evil.example/{CC}/licenses/by/4.0/": "unspecified",
    f"not under {CC}/licenses/by/4.0/": "unspecified", f"{OSI}/license/afl": "unspecified", f"{SPDX}/nothing": "unspecified",
    f"MIT AND {CC}/licenses/by/9.0/": "unspecified", "Foo/Bar": "unspecified", "MIT/Foo": "unspecified",
    "Apache 2.0": "commercial",
    "CC BY-NC": "non_commercial", "CC BY": "unspecified", "GPLv9": "unspecified", "CC BY 9.9": "unspecified",
    "Free for academic use": "academic_only", "No AI training": "forbidden",
    # a branch or an exception that reserves training, as one word, or as a reference
    "MIT OR LicenseRef-DoNotTrain": "forbidden", "MIT OR DoNotTrain-1.0": "forbidden", "MIT OR LicenseRef-NoTDM": "forbidden",
    "MIT OR LicenseRef-NoMachineLearning": "unspecified", "MIT OR (ISC WITH AdditionRef-NoAI)": "forbidden",
    "MIT WITH AdditionRef-no-ai-training": "forbidden", "MIT OR DocumentRef-x:LicenseRef-NoAI": "forbidden",
    "MIT OR ISC WITH AdditionRef-TDM-reserved": "unspecified", "MIT OR LicenseRef-RAIL-M": "commercial",
    "MIT OR LicenseRef-AcmeMail": "commercial", "MIT OR LicenseRef-Strained": "commercial",
    f"{CC}/licenses/by/4.0/../../by-nc/4.0/": "unspecified",
}  # fmt: skip


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_a_string_is_read_as_its_steward_defines_it(text):
    terms = classify(text, POLICY)
    assert terms.licence_spdx == EXPRESSIONS[text]
    assert terms.licence_class == classify(EXPRESSIONS[text], POLICY).licence_class
    assert classify(terms.licence_spdx, POLICY).licence_spdx == terms.licence_spdx


@pytest.mark.parametrize("text", WORDS)
def test_other_words_have_the_class_of_the_policy(text):
    assert classify(text, POLICY).licence_class == WORDS[text]


def test_every_licence_of_creative_commons_has_the_class_of_its_elements():
    """No version or country is forgotten: `CC-SA-1.0` was."""
    for licence in (key for key in spdx.known_ids() if key.startswith(("CC-", "CC0-"))):
        expected = "non_commercial" if "-NC-" in licence else "unspecified" if "-ND-" in licence else "commercial"
        assert classify(licence, POLICY).licence_class == expected


def test_the_table_has_more_than_the_strings_that_were_tried_first():
    assert len(EXPRESSIONS) + len(WORDS) >= 200


def test_a_later_version_has_the_class_of_its_licence_and_what_is_left_out_is_told():
    assert classify("CC-BY-NC-4.0+", POLICY).licence_class == "non_commercial"
    assert classify("BUSL-1.1+", POLICY).licence_class == "unspecified"
    assert classify("MIT OR Foo-1.0", POLICY).because == "MIT is commercial; of the choice 'Foo-1.0' cannot be read"
    assert "'https://example.org/l' cannot be read" in classify("MIT OR https://example.org/l", POLICY).because


IDS = st.sampled_from(sorted(spdx.known_ids()))


@given(IDS)
def test_every_licence_of_spdx_is_read_with_a_plus_and_by_its_address(licence):
    assert str(spdx.parse(licence)) == licence
    assert str(spdx.parse(f"{SPDX}/{licence}.html")) == licence
    if not licence.endswith(("-only", "-or-later")):
        later = str(spdx.parse(f"{licence}+"))
        assert later in {f"{licence}+", licence.replace("-only", "-or-later")} or later.endswith("-or-later")
        assert classify(later, POLICY).licence_class == classify(licence, POLICY).licence_class


@given(IDS, st.from_regex(r"[A-Z][a-z]{3,8}-\d\.\d", fullmatch=True))
def test_a_choice_with_an_unknown_branch_is_the_known_one_and_both_together_are_unreadable(licence, unknown):
    if unknown.lower() in {key.lower() for key in spdx.licensing().known_symbols}:
        return
    assert classify(f"{licence} OR {unknown}", POLICY).licence_spdx == licence
    assert classify(f"{licence} AND {unknown}", POLICY).licence_spdx is None
