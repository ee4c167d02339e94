"""The instructions that may be executed on the host's CPU, and what the guest's CPU must have for each.

Sources: Intel SDM volume 2A, CPUID and table 3-8 ff. (feature bits), volume 2 ("CPUID Feature Flag" and "Exceptions" of
each instruction), 2.4 (exceptions of VEX-coded ones) and volume 3A, table 2-2 (CR0.EM, MP, TS); AMD APM volume 3, D.

None of these branches, is privileged, or touches memory but by the one operand that its ModRM byte names. What does is
left out on purpose: gathers (several addresses), MASKMOVQ (an address in DI), XSAVE (as much memory as EDX:EAX says).
"""

from __future__ import annotations

from typing import NamedTuple


class Bit(NamedTuple):
    """A CPUID bit: the leaf, its sub-leaf, the register's name and the number of the bit."""

    leaf: int
    sub_leaf: int
    register: str
    bit: int


FEATURES = {
    "FPU": Bit(1, 0, "edx", 0),
    "CX8": Bit(1, 0, "edx", 8),
    "CMOV": Bit(1, 0, "edx", 15),
    "MMX": Bit(1, 0, "edx", 23),
    "FXSR": Bit(1, 0, "edx", 24),
    "SSE": Bit(1, 0, "edx", 25),
    "SSE2": Bit(1, 0, "edx", 26),
    "SSE3": Bit(1, 0, "ecx", 0),
    "PCLMULQDQ": Bit(1, 0, "ecx", 1),
    "SSSE3": Bit(1, 0, "ecx", 9),
    "FMA": Bit(1, 0, "ecx", 12),
    "CX16": Bit(1, 0, "ecx", 13),
    "SSE4.1": Bit(1, 0, "ecx", 19),
    "SSE4.2": Bit(1, 0, "ecx", 20),
    "MOVBE": Bit(1, 0, "ecx", 22),
    "POPCNT": Bit(1, 0, "ecx", 23),
    "AES": Bit(1, 0, "ecx", 25),
    "AVX": Bit(1, 0, "ecx", 28),
    "F16C": Bit(1, 0, "ecx", 29),
    "RDRAND": Bit(1, 0, "ecx", 30),
    "BMI1": Bit(7, 0, "ebx", 3),
    "AVX2": Bit(7, 0, "ebx", 5),
    "BMI2": Bit(7, 0, "ebx", 8),
    "RDSEED": Bit(7, 0, "ebx", 18),
    "ADX": Bit(7, 0, "ebx", 19),
    "SMAP": Bit(7, 0, "ebx", 20),
    "SHA": Bit(7, 0, "ebx", 29),
    "VAES": Bit(7, 0, "ecx", 9),
    "VPCLMULQDQ": Bit(7, 0, "ecx", 10),
    "LZCNT": Bit(0x80000001, 0, "ecx", 5),
    "RDTSCP": Bit(0x80000001, 0, "edx", 27),
}
"""CPUID's bits by the names of the manuals."""

_BY_FEATURE = {
    "FPU": """
        f2xm1 fabs fadd faddp fbld fbstp fchs fcom fcomp fcompp fcos fdecstp fdiv fdivp fdivr fdivrp ffree fiadd ficom
        ficomp fidiv fidivr fild fimul fincstp fist fistp fisub fisubr fld fld1 fldcw fldenv fldl2e fldl2t fldlg2 fldln2
        fldpi fldz fmul fmulp fnclex fninit fnop fnsave fnstcw fnstenv fnstsw fpatan fprem fprem1 fptan frndint frstor
        fscale fsin fsincos fsqrt fst fstp fsub fsubp fsubr fsubrp ftst fucom fucomp fucompp fxam fxch fxtract fyl2x
        fyl2xp1 wait
    """,
    "CMOV": "fcmovb fcmovbe fcmove fcmovnb fcmovnbe fcmovne fcmovnu fcmovu fcomi fcompi fucomi fucompi",
    "CX8": "cmpxchg8b",
    "CX16": "cmpxchg16b",
    "FXSR": "fxsave fxsave64 fxrstor fxrstor64",
    "MMX": """
        emms movd movq packssdw packsswb packuswb paddb paddd paddsb paddsw paddusb paddusw paddw pand pandn pcmpeqb
        pcmpeqd pcmpeqw pcmpgtb pcmpgtd pcmpgtw pmaddwd pmulhw pmullw por pslld psllq psllw psrad psraw psrld psrlq
        psrlw psubb psubd psubsb psubsw psubusb psubusw psubw punpckhbw punpckhdq punpckhwd punpcklbw punpckldq
        punpcklwd pxor
    """,
    "SSE": """
        addps addss andnps andps cmpps cmpss comiss cvtpi2ps cvtps2pi cvtsi2ss cvtss2si cvttps2pi cvttss2si divps divss
        ldmxcsr maxps maxss minps minss movaps movhlps movhps movlhps movlps movmskps movntps movntq movss movups mulps
        mulss orps pavgb pavgw pextrw pinsrw pmaxsw pmaxub pminsw pminub pmovmskb pmulhuw psadbw pshufw rcpps rcpss
        rsqrtps rsqrtss shufps sqrtps sqrtss stmxcsr subps subss ucomiss unpckhps unpcklps xorps
    """,
    "SSE2": """
        addpd addsd andnpd andpd cmppd cmpsd comisd cvtdq2pd cvtdq2ps cvtpd2dq cvtpd2pi cvtpd2ps cvtpi2pd cvtps2dq
        cvtps2pd cvtsd2si cvtsd2ss cvtsi2sd cvtss2sd cvttpd2dq cvttpd2pi cvttps2dq cvttsd2si divpd divsd maxpd maxsd
        minpd minsd movapd movdq2q movdqa movdqu movhpd movlpd movmskpd movntdq movnti movntpd movq2dq movsd movupd
        mulpd mulsd orpd paddq pmuludq pshufd pshufhw pshuflw pslldq psrldq psubq punpckhqdq punpcklqdq shufpd sqrtpd
        sqrtsd subpd subsd ucomisd unpckhpd unpcklpd xorpd
    """,
    "SSE3": "addsubpd addsubps fisttp haddpd haddps hsubpd hsubps lddqu movddup movshdup movsldup",
    "SSSE3": """
        pabsb pabsd pabsw palignr phaddd phaddsw phaddw phsubd phsubsw phsubw pmaddubsw pmulhrsw pshufb psignb psignd
        psignw
    """,
    "SSE4.1": """
        blendpd blendps blendvpd blendvps dppd dpps extractps insertps movntdqa mpsadbw packusdw pblendvb pblendw
        pcmpeqq pextrb pextrd pextrq phminposuw pinsrb pinsrd pinsrq pmaxsb pmaxsd pmaxud pmaxuw pminsb pminsd pminud
        pminuw pmovsxbd pmovsxbq pmovsxbw pmovsxdq pmovsxwd pmovsxwq pmovzxbd pmovzxbq pmovzxbw pmovzxdq pmovzxwd
        pmovzxwq pmuldq pmulld ptest roundpd roundps roundsd roundss
    """,
    "SSE4.2": "crc32 pcmpestri pcmpestrm pcmpgtq pcmpistri pcmpistrm",
    "POPCNT": "popcnt",
    "MOVBE": "movbe",
    "LZCNT": "lzcnt",
    "AES": "aesdec aesdeclast aesenc aesenclast aesimc aeskeygenassist",
    "PCLMULQDQ": "pclmulqdq",
    "SHA": "sha1msg1 sha1msg2 sha1nexte sha1rnds4 sha256msg1 sha256msg2 sha256rnds2",
    "RDRAND": "rdrand",
    "RDSEED": "rdseed",
    "ADX": "adcx adox",
    "BMI1": "andn bextr blsi blsmsk blsr tzcnt",
    "BMI2": "bzhi mulx pdep pext rorx sarx shlx shrx",
    "AVX": """
        vaddpd vaddps vaddsd vaddss vaddsubpd vaddsubps vandnpd vandnps vandpd vandps vblendpd vblendps vblendvpd
        vblendvps vbroadcastf128 vbroadcastsd vbroadcastss vcmppd vcmpps vcmpsd vcmpss vcomisd vcomiss vcvtdq2pd
        vcvtdq2ps vcvtpd2dq vcvtpd2ps vcvtps2dq vcvtps2pd vcvtsd2si vcvtsd2ss vcvtsi2sd vcvtsi2ss vcvtss2sd vcvtss2si
        vcvttpd2dq vcvttps2dq vcvttsd2si vcvttss2si vdivpd vdivps vdivsd vdivss vdppd vdpps vextractf128 vextractps
        vhaddpd vhaddps vhsubpd vhsubps vinsertf128 vinsertps vlddqu vldmxcsr vmaxpd vmaxps vmaxsd vmaxss vminpd vminps
        vminsd vminss vmovapd vmovaps vmovd vmovddup vmovdqa vmovdqu vmovhlps vmovhpd vmovhps vmovlhps vmovlpd vmovlps
        vmovmskpd vmovmskps vmovntdq vmovntdqa vmovntpd vmovntps vmovq vmovsd vmovshdup vmovsldup vmovss vmovupd vmovups
        vmpsadbw vmulpd vmulps vmulsd vmulss vorpd vorps vpabsb vpabsd vpabsw vpackssdw vpacksswb vpackusdw vpackuswb
        vpaddb vpaddd vpaddq vpaddsb vpaddsw vpaddusb vpaddusw vpaddw vpalignr vpand vpandn vpavgb vpavgw vpblendvb
        vpblendw vpcmpeqb vpcmpeqd vpcmpeqq vpcmpeqw vpcmpestri vpcmpestrm vpcmpgtb vpcmpgtd vpcmpgtq vpcmpgtw
        vpcmpistri vpcmpistrm vperm2f128 vpermilpd vpermilps vpextrb vpextrd vpextrq vpextrw vphaddd vphaddsw vphaddw
        vphminposuw vphsubd vphsubsw vphsubw vpinsrb vpinsrd vpinsrq vpinsrw vpmaddubsw vpmaddwd vpmaxsb vpmaxsd vpmaxsw
        vpmaxub vpmaxud vpmaxuw vpminsb vpminsd vpminsw vpminub vpminud vpminuw vpmovmskb vpmovsxbd vpmovsxbq vpmovsxbw
        vpmovsxdq vpmovsxwd vpmovsxwq vpmovzxbd vpmovzxbq vpmovzxbw vpmovzxdq vpmovzxwd vpmovzxwq vpmuldq vpmulhrsw
        vpmulhuw vpmulhw vpmulld vpmullw vpmuludq vpor vpsadbw vpshufb vpshufd vpshufhw vpshuflw vpsignb vpsignd vpsignw
        vpslld vpslldq vpsllq vpsllw vpsrad vpsraw vpsrld vpsrldq vpsrlq vpsrlw vpsubb vpsubd vpsubq vpsubsb vpsubsw
        vpsubusb vpsubusw vpsubw vptest vpunpckhbw vpunpckhdq vpunpckhqdq vpunpckhwd vpunpcklbw vpunpckldq vpunpcklqdq
        vpunpcklwd vpxor vrcpps vrcpss vroundpd vroundps vroundsd vroundss vrsqrtps vrsqrtss vshufpd vshufps vsqrtpd
        vsqrtps vsqrtsd vsqrtss vstmxcsr vsubpd vsubps vsubsd vsubss vtestpd vtestps vucomisd vucomiss vunpckhpd
        vunpckhps vunpcklpd vunpcklps vxorpd vxorps vzeroall vzeroupper
    """,
    "AVX2": """
        vbroadcasti128 vextracti128 vinserti128 vpblendd vpbroadcastb vpbroadcastd vpbroadcastq vpbroadcastw vperm2i128
        vpermd vpermpd vpermps vpermq vpsllvd vpsllvq vpsravd vpsrlvd vpsrlvq
    """,
    "F16C": "vcvtph2ps vcvtps2ph",
    "FMA": " ".join(
        f"v{sign}{order}{kind}"
        for order in ("132", "213", "231")
        for sign, kinds in (
            *((sign, ("pd", "ps", "sd", "ss")) for sign in ("fmadd", "fmsub", "fnmadd", "fnmsub")),
            ("fmaddsub", ("pd", "ps")), ("fmsubadd", ("pd", "ps")),
        )
        for kind in kinds
    ),
    "VAES": "vaesdec vaesdeclast vaesenc vaesenclast vaesimc vaeskeygenassist",
    "VPCLMULQDQ": "vpclmulqdq",
}  # fmt: skip

FEATURE_OF = {name: feature for feature, names in _BY_FEATURE.items() for name in names.split()}
"""The feature that each mnemonic needs; those that are not here are not executed."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


GENERAL = _words("""
    popcnt lzcnt tzcnt crc32 movbe movnti adcx adox rdrand rdseed cmpxchg8b cmpxchg16b andn bextr blsi blsmsk blsr bzhi
    mulx pdep pext rorx sarx shlx shrx
""")
"""Those that use nothing but general registers: neither CR0 nor CR4 keeps them from being executed."""

SIZED = _words("popcnt lzcnt tzcnt crc32 movbe rdrand rdseed fldenv fnstenv fnsave frstor")
"""Those that listen to the operand size, whose prefix means the opposite in 16-bit code."""

REPLACED = _words("cmpxchg8b cmpxchg16b")
"""Those that read their operand in memory and write it, on guest RAM itself, since other CPUs use them as locks."""
