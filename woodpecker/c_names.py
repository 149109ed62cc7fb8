"""Names that the C library has: a function of a program that takes one of them is called in the library's place."""

from __future__ import annotations

import re

_FAMILIES = re.compile(
    "(aio|argp|argz|atomic|clnt|clock|cnd|envz|epoll|fanotify|inet|inet6|inotify|lio|"
    "memory_order|mtx|obstack|posix|pthread|sched|sem|shm|svc|thrd|timer|tss|xdr)_.+|"
    "f[0-9]+x?(add|div|fma|mul|sqrt|sub)f[0-9]+x?"
)

# Functions with variants for float and long double.
_MATHEMATICS = """
    acos acosh asin asinh atan atan2 atanh cabs cacos cacosh canonicalize carg casin casinh catan catanh cbrt ccos
    ccosh ceil cexp cimag clog clog10 conj copysign cos cosh cpow cproj creal csin csinh csqrt ctan ctanh drem erf
    erfc exp exp10 exp2 expm1 fabs fdim finite floor fma fmax fmaximum fmaximum_mag fmaximum_mag_num fmaximum_num
    fmaxmag fmin fminimum fminimum_mag fminimum_mag_num fminimum_num fminmag fmod frexp fromfp fromfpx gamma
    getpayload hypot ilogb isinf isnan j0 j1 jn ldexp lgamma llogb llrint llround log log10 log1p log2 logb lrint
    lround modf nan nearbyint nextafter nextdown nexttoward nextup pow pow10 remainder remquo rint round roundeven
    scalb scalbln scalbn setpayload setpayloadsig significand sin sincos sinh sqrt tan tanh tgamma totalorder
    totalordermag trunc ufromfp ufromfpx y0 y1 yn
"""

# Of ISO C, POSIX and glibc; and macros of compilers and headers.
_OTHERS = """
    Dl_info a64l abort abs accept accept4 access acct addmntent addseverity adjtime adjtimex advance alarm aligned_alloc
    alloca alphasort arc4random arc4random_buf arc4random_uniform arch_prctl asctime asprintf assert at_quick_exit
    atexit atof atoi atol atoll authdes_create authdes_getucred authdes_pk_create authnone_create authunix_create
    authunix_create_default backtrace backtrace_symbols backtrace_symbols_fd basename bcmp bcopy bdflush bind
    bind_textdomain_codeset bindresvport bindresvport6 bindtextdomain brk bsd_signal bsearch btowc bzero c16rtomb
    c32rtomb c8rtomb call_once calloc callrpc canonicalize_file_name capget capset catclose catgets catopen
    cbc_crypt cfgetispeed cfgetospeed cfmakeraw cfree cfsetispeed cfsetospeed cfsetspeed chdir chflags chmod chown
    chroot clearenv clearerr clntraw_create clnttcp_create clntudp_bufcreate clntudp_create clntunix_create clock
    clone close close_range closedir closefrom closelog complex confstr connect copy_file_range creat create_module
    crypt ctermid ctime cuserid daddl daemon daylight dcgettext dcngettext ddivl delete_module des_setparity dfmal
    dgettext difftime dirfd dirname div dl_iterate_phdr dladdr dladdr1 dlclose dlerror dlinfo dlmopen dlopen dlsym
    dlvsym dmull dn_comp dn_expand dn_skipname dngettext dprintf drand48 dsqrtl dsubl dup dup2 dup3 duplocale dysize
    eaccess ecb_crypt ecvt endaliasent endfsent endgrent endhostent endmntent endnetent endnetgrent endprotoent
    endpwent endrpcent endservent endsgent endspent endttyent endusershell endutent endutxent environ erand48 err
    errno error error_at_line error_message_count error_one_per_line error_print_progname errx ether_aton
    ether_hostton ether_line ether_ntoa ether_ntohost euidaccess eventfd eventfd_read eventfd_write execl execle
    execlp execv execve execveat execvp execvpe exit explicit_bzero faccessat fadd faddl fallocate far fattach
    fchdir fchflags fchmod fchmodat fchown fchownat fclose fcloseall fcntl fcvt fdatasync fdetach fdiv fdivl fdopen
    fdopendir feclearexcept fedisableexcept feenableexcept fegetenv fegetexcept fegetexceptflag fegetmode fegetround
    feholdexcept feof feraiseexcept ferror fesetenv fesetexcept fesetexceptflag fesetmode fesetround fetestexcept
    fetestexceptflag feupdateenv fexecve fflush ffma ffmal ffs ffsl ffsll fgetc fgetgrent fgetpos fgetpwent fgets
    fgetsgent fgetspent fgetwc fgetws fgetxattr fileno flistxattr flock flockfile fmemopen fmtmsg fmul fmull fnmatch
    fopen fopencookie fork forkpty fpathconf fpclassify fprintf fputc fputs fputwc fputws fread free freeaddrinfo
    freeifaddrs freelocale fremovexattr freopen fscanf fsconfig fseek fseeko fsetpos fsetxattr fsmount fsopen fspick
    fsqrt fsqrtl fstat fstatat fstatfs fstatvfs fsub fsubl fsync ftell ftello ftime ftok ftruncate ftrylockfile
    fts64_children fts64_close fts64_open fts64_read fts64_set fts_children fts_close fts_open fts_read fts_set ftw
    funlockfile futimens futimes futimesat fwide fwprintf fwrite fwscanf gai_cancel gai_error gai_strerror
    gai_suspend gcvt get_avphys_pages get_current_dir_name get_kernel_syms get_myaddress get_nprocs get_nprocs_conf
    get_phys_pages getaddrinfo getaddrinfo_a getaliasbyname getaliasent getauxval getc getchar getcontext getcpu
    getcwd getdate getdate_err getdelim getdents64 getdirentries getdomainname getdtablesize getegid getentropy
    getenv geteuid getfsent getfsfile getfsspec getgid getgrent getgrgid getgrnam getgrouplist getgroups
    gethostbyaddr gethostbyname gethostbyname2 gethostent gethostid gethostname getifaddrs getipv4sourcefilter
    getitimer getline getloadavg getlogin getmntent getmsg getnameinfo getnetbyaddr getnetbyname getnetent
    getnetgrent getnetname getopt getopt_long getopt_long_only getpagesize getpass getpeername getpgid getpgrp
    getpid getpmsg getppid getpriority getprotobyname getprotobynumber getprotoent getpt getpublickey getpw getpwent
    getpwnam getpwuid getrandom getresgid getresuid getrlimit getrpcbyname getrpcbynumber getrpcent getrpcport
    getrusage gets getsecretkey getservbyname getservbyport getservent getsgent getsgnam getsid getsockname
    getsockopt getsourcefilter getspent getspnam getsubopt gettext gettid gettimeofday getttyent getttynam getuid
    getumask getusershell getutent getutid getutline getutmp getutmpx getutxent getutxid getutxline getw getwc
    getwchar getwd getxattr glob glob_pattern_p globfree gmtime gnu_dev_major gnu_dev_makedev gnu_dev_minor
    gnu_get_libc_release gnu_get_libc_version grantpt group_member gsignal gtty h_errlist h_nerr hasmntopt hcreate
    hdestroy herror host2netname hsearch hstrerror htonl htons i386 iconv iconv_close iconv_open if_freenameindex
    if_indextoname if_nameindex if_nametoindex imaginary imaxabs imaxdiv in6addr_any in6addr_loopback index
    init_module initgroups initstate innetgr insque interface ioctl ioperm iopl iruserok iruserok_af isalnum isalpha
    isascii isastream isatty isblank iscntrl isctype isdigit isfdtype isfinite isgraph isgreater isgreaterequal
    isless islessequal islessgreater islower isnormal isprint ispunct isspace isunordered isupper iswalnum iswalpha
    iswblank iswcntrl iswctype iswdigit iswgraph iswlower iswprint iswpunct iswspace iswupper iswxdigit isxdigit
    jrand48 key_decryptsession key_decryptsession_pk key_encryptsession key_encryptsession_pk key_gendes
    key_get_conv key_secretkey_is_set key_setnet key_setsecret kill killpg klogctl l64a labs lchmod lchown lckpwdf
    lcong48 ldiv lfind lgetxattr link linkat linux listen listxattr llabs lldiv llistxattr llseek loc1 loc2
    localeconv localtime lockf lockf64 locs login login_tty logout logwtmp longjmp lrand48 lremovexattr lsearch
    lseek lsetxattr lstat lutimes madvise makecontext mallinfo mallinfo2 malloc malloc_info malloc_stats malloc_trim
    malloc_usable_size mallopt mallwatch matherr max mblen mbrlen mbrtoc16 mbrtoc32 mbrtoc8 mbrtowc mbsinit
    mbsnrtowcs mbsrtowcs mbstowcs mbtowc mcheck mcheck_check_all mcheck_pedantic mcount memalign memccpy memchr
    memcmp memcpy memfd_create memfrob memmem memmove mempcpy memrchr memset memset_explicit min mincore mkdir
    mkdirat mkdtemp mkfifo mkfifoat mknod mknodat mkostemp mkostemps mkstemp mkstemps mktemp mktime mlock mlock2
    mlockall mmap modify_ldt moncontrol monstartup mount mount_setattr move_mount mprobe mprotect mq_close
    mq_getattr mq_notify mq_open mq_receive mq_send mq_setattr mq_timedreceive mq_timedsend mq_unlink mrand48 mremap
    msgctl msgget msgrcv msgsnd msync mtrace munlock munlockall munmap muntrace name_to_handle_at nanosleep near
    netname2host netname2user newlocale nfsservctl nftw ngettext nice nl_langinfo noreturn nrand48 ns_name_compress
    ns_name_ntop ns_name_pack ns_name_pton ns_name_skip ns_name_uncompress ns_name_unpack ntohl ntohs ntp_adjtime
    ntp_gettime ntp_gettimex offsetof on_exit open open_by_handle_at open_memstream open_tree open_wmemstream openat
    opendir openlog openpty optarg opterr optind optopt parse_printf_format passwd2des pathconf pause pclose perror
    personality pidfd_getfd pidfd_open pidfd_send_signal pipe pipe2 pivot_root pkey_alloc pkey_free pkey_get
    pkey_mprotect pkey_set pmap_getmaps pmap_getport pmap_rmtcall pmap_set pmap_unset poll popen ppoll prctl pread
    preadv preadv2 preadv64v2 printf printf_size printf_size_info prlimit process_madvise process_mrelease
    process_vm_readv process_vm_writev profil program_invocation_name program_invocation_short_name pselect psiginfo
    psignal ptrace ptsname putc putchar putenv putgrent putmsg putpmsg putpwent puts putsgent putspent pututline
    pututxline putw putwc putwchar pvalloc pwrite pwritev pwritev2 pwritev64v2 qecvt qfcvt qgcvt qsort query_module
    quick_exit quotactl raise rand random rawmemchr rcmd rcmd_af re_comp re_compile_fastmap re_compile_pattern
    re_exec re_match re_match_2 re_max_failures re_search re_search_2 re_set_registers re_set_syntax
    re_syntax_options read readahead readdir readlink readlinkat readv realloc reallocarray realpath reboot recv
    recvfrom recvmmsg recvmsg regcomp regerror regexec regfree register_printf_function register_printf_modifier
    register_printf_specifier register_printf_type registerrpc remap_file_pages remove removexattr remque rename
    renameat renameat2 res_dnok res_hnok res_mailok res_mkquery res_nmkquery res_nquery res_nquerydomain res_nsearch
    res_nsend res_ownok res_query res_querydomain res_search res_send revoke rewind rewinddir rexec rexec_af
    rexecoptions rindex rmdir rpc_createerr rpmatch rresvport rresvport_af rtime ruserok ruserok_af ruserpass sbrk
    scandir scandirat scanf secure_getenv seed48 seekdir select semctl semget semop semtimedop send sendfile
    sendmmsg sendmsg sendto setaliasent setbuf setbuffer setcontext setdomainname setegid setenv seteuid setfsent
    setfsgid setfsuid setgid setgrent setgroups sethostent sethostid sethostname setipv4sourcefilter setitimer
    setjmp setlinebuf setlocale setlogin setlogmask setmntent setnetent setnetgrent setns setpgid setpgrp
    setpriority setprotoent setpwent setregid setresgid setresuid setreuid setrlimit setrpcent setservent setsgent
    setsid setsockopt setsourcefilter setspent setstate settimeofday setttyent setuid setusershell setutent
    setutxent setvbuf setxattr sgetsgent sgetspent shmat shmctl shmdt shmget shutdown sigabbrev_np sigaction
    sigaddset sigaltstack sigandset sigblock sigdelset sigdescr_np sigemptyset sigfillset siggetmask sighold
    sigignore siginterrupt sigisemptyset sigismember siglongjmp signal signalfd signbit signgam sigorset sigpause
    sigpending sigprocmask sigqueue sigrelse sigreturn sigset sigsetjmp sigsetmask sigstack sigsuspend sigtimedwait
    sigvec sigwait sigwaitinfo sleep small snprintf sockatmark socket socketpair splice sprintf sprofil srand
    srand48 srandom sscanf ssignal sstk stat statfs statvfs statx stderr stdin stdout step stime stpcpy stpncpy
    strcasecmp strcasestr strcat strchr strchrnul strcmp strcoll strcpy strcspn strdup strdupa strerror
    strerrordesc_np strerrorname_np strfmon strfromd strfromf strfromf128 strfromf32 strfromf32x strfromf64
    strfromf64x strfroml strfry strftime strlcat strlcpy strlen strncasecmp strncat strncmp strncpy strndup strnlen
    strpbrk strptime strrchr strsep strsignal strspn strstr strtod strtof strtof128 strtof32 strtof32x strtof64
    strtof64x strtoimax strtok strtol strtold strtoll strtoq strtoul strtoull strtoumax strtouq strverscmp strxfrm
    stty svcauthdes_stats svcerr_auth svcerr_decode svcerr_noproc svcerr_noprog svcerr_progvers svcerr_systemerr
    svcerr_weakauth svcfd_create svcraw_create svctcp_create svcudp_bufcreate svcudp_create svcudp_enablecache
    svcunix_create svcunixfd_create swab swapcontext swapoff swapon swprintf swscanf symlink symlinkat sync
    sync_file_range syncfs sys_errlist sys_nerr sys_sigabbrev sys_siglist syscall sysconf sysctl sysinfo syslog
    system sysv_signal tcdrain tcflow tcflush tcgetattr tcgetpgrp tcgetsid tcsendbreak tcsetattr tcsetpgrp tdelete
    tdestroy tee telldir tempnam textdomain tfind tgkill time timegm timelocal timerfd_create timerfd_gettime
    timerfd_settime times timespec_get timespec_getres timezone tmpfile tmpnam toascii tolower toupper towctrans
    towlower towupper tr_break truncate tsearch ttyname ttyslot twalk tzname tzset ualarm ulckpwdf ulimit umask
    umount umount2 uname ungetc ungetwc unix unlink unlinkat unlockpt unreachable unsetenv unshare updwtmp updwtmpx
    uselib uselocale user2netname usleep ustat utime utimensat utimes utmpname utmpxname va_arg va_copy va_end
    va_start valloc vasprintf vdprintf verr verrx versionsort vfork vfprintf vfscanf vfwprintf vfwscanf vhangup
    vlimit vmsplice vprintf vscanf vsnprintf vsprintf vsscanf vswprintf vswscanf vsyslog vtimes vwarn vwarnx
    vwprintf vwscanf wait wait3 wait4 waitid waitpid warn warnx wcpcpy wcpncpy wcrtomb wcscasecmp wcscat wcschr
    wcschrnul wcscmp wcscoll wcscpy wcscspn wcsdup wcsftime wcslen wcsncasecmp wcsncat wcsncmp wcsncpy wcsnlen
    wcsnrtombs wcspbrk wcsrchr wcsrtombs wcsspn wcsstr wcstod wcstof wcstof128 wcstof32 wcstof32x wcstof64 wcstof64x
    wcstoimax wcstok wcstol wcstold wcstoll wcstombs wcstoq wcstoul wcstoull wcstoumax wcstouq wcswcs wcswidth
    wcsxfrm wctob wctomb wctrans wctype wcwidth wmemchr wmemcmp wmemcpy wmemmove wmempcpy wmemset wordexp wordfree
    wprintf write writev wscanf xdecrypt xdrmem_create xdrrec_create xdrrec_endofrecord xdrrec_eof xdrrec_skiprecord
    xdrstdio_create xencrypt xprt_register xprt_unregister
"""

_NAMES = frozenset(_OTHERS.split()) | {name + suffix for name in _MATHEMATICS.split() for suffix in ("", "f", "l")}


def in_c_library(name: str) -> bool:
    """Whether a name is one of C's or POSIX' libraries, or is kept for them: those that end in _t."""
    plain = re.sub("(64|_l|_np|_r|_unlocked|f(16|32|64|128)x?)+$", "", name)
    return name in _NAMES or plain in _NAMES or name.endswith("_t") or _FAMILIES.fullmatch(name) is not None
