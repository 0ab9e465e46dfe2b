/* Stands in for the server beside control_615.py: does nothing until it is ended. */

#include <unistd.h>

int main(void)
{
    for (;;)
        pause();
}
