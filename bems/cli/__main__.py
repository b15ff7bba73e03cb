from bems.cli import main

main()
