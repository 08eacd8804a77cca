from edgekd_device.__main__ import main

raise SystemExit(main())
